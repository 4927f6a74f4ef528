//! Who a node is, how it gets to its gateway and whom it trusts: written once at provisioning, over
//! the console or with the flash image, never over MQTT. What it measures is its
//! [`Config`](crate::config::Config)'s business.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use heapless::{String, Vec};
use minicbor::data::Type;
use minicbor::decode::{Decoder, Error as DecodeError};
use minicbor::encode::Encoder;
use minicbor::encode::write::{Cursor, EndOfSlice};
use telemetry::NodeName;
use telemetry::mac::Key;

/// Version of the image.
pub const SETTINGS_VERSION: u8 = 1;
/// Bytes of an image at most.
pub const SETTINGS_BYTES_MAX: usize = 512;
/// Bytes of a token; as text, two hex digits each.
pub const TOKEN_BYTES: usize = 20;
/// Bytes of a gateway's host name or address.
pub const HOST_BYTES_MAX: usize = 64;

/// How a node gets to its network.
#[derive(Clone, PartialEq, Eq)]
pub enum Link {
    /// A cable.
    Ethernet,
    /// Wi-Fi.
    Wifi {
        /// The network's name, 1–32 bytes.
        ssid: String<32>,
        /// Its WPA passphrase, 8–63 bytes; empty for an open network.
        passphrase: String<63>,
    },
    /// A modem.
    Cellular {
        /// The access point's name.
        apn: String<32>,
        /// PIN of the SIM; empty where it has none.
        pin: String<8>,
    },
}

/// How a node comes by its IPv4 address.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Ipv4 {
    /// Not at all.
    Off,
    /// DHCP.
    #[default]
    Dhcp,
    /// It is told.
    Static {
        /// Its own.
        address: Ipv4Addr,
        /// Bits of the network, 0–32.
        prefix: u8,
        /// The way out, where there is one.
        router: Option<Ipv4Addr>,
    },
}

/// How a node comes by its IPv6 address, beside its link-local one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Ipv6 {
    /// No IPv6 at all.
    Off,
    /// From the router's advertisement (SLAAC).
    #[default]
    Auto,
    /// It is told.
    Static {
        /// Its own.
        address: Ipv6Addr,
        /// Bits of the network, 0–128.
        prefix: u8,
        /// The way out, where there is one.
        router: Option<Ipv6Addr>,
    },
}

/// When the radio is on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Radio {
    /// Always: the live view is live, commands come at once.
    #[default]
    Always,
    /// Only while something is to be sent and until it is receipted.
    Batch,
}

/// A node's settings.
#[derive(Clone, PartialEq, Eq)]
pub struct Settings {
    /// Its name.
    pub name: NodeName,
    /// Its log-in token.
    pub token: [u8; TOKEN_BYTES],
    /// Its key.
    pub key: Key,
    /// The gateway's name or address.
    pub host: String<HOST_BYTES_MAX>,
    /// The gateway's port.
    pub port: u16,
    /// SHA-256 of the gateway's public key (the DER of SubjectPublicKeyInfo); with it the
    /// connection is TLS 1.3 and goes to this key only.
    pub pin: Option<[u8; 32]>,
    /// How it gets to its network.
    pub link: Link,
    /// Its IPv4 address.
    pub ipv4: Ipv4,
    /// Its IPv6 address.
    pub ipv6: Ipv6,
    /// Name servers beside those that DHCP names.
    pub dns: Vec<IpAddr, 2>,
    /// When the radio is on.
    pub radio: Radio,
}

/// Why settings are not believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SettingsError {
    /// The image is no CBOR of the right shape.
    #[error("the settings are not what the schema says")]
    Shape,
    /// The image is of a newer program.
    #[error("settings version {0} is newer than this program")]
    Newer(u8),
    /// Something is outside its range.
    #[error("{0} is not possible")]
    Range(&'static str),
    /// The buffer is too small.
    #[error("the settings need more room")]
    Room,
}

impl From<DecodeError> for SettingsError {
    fn from(_: DecodeError) -> Self {
        Self::Shape
    }
}

impl From<minicbor::encode::Error<EndOfSlice>> for SettingsError {
    fn from(_: minicbor::encode::Error<EndOfSlice>) -> Self {
        Self::Room
    }
}

/// Without what opens anything.
impl core::fmt::Debug for Link {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::Ethernet => f.write_str("Ethernet"),
            Self::Wifi { ssid, .. } => f.debug_struct("Wifi").field("ssid", ssid).finish_non_exhaustive(),
            Self::Cellular { apn, .. } => f.debug_struct("Cellular").field("apn", apn).finish_non_exhaustive(),
        }
    }
}

/// Without token and passphrases; [`Key`] hides itself.
impl core::fmt::Debug for Settings {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Settings")
            .field("name", &self.name)
            .field("host", &self.host)
            .field("port", &self.port)
            .field("tls", &self.pin.is_some())
            .field("link", &self.link)
            .field("ipv4", &self.ipv4)
            .field("ipv6", &self.ipv6)
            .field("dns", &self.dns)
            .field("radio", &self.radio)
            .finish_non_exhaustive()
    }
}

impl Settings {
    /// Whether they are possible.
    pub fn validate(&self) -> Result<(), SettingsError> {
        let link = match &self.link {
            Link::Ethernet => true,
            Link::Wifi { ssid, passphrase } => {
                !ssid.is_empty() && (passphrase.is_empty() || (8..=63).contains(&passphrase.len()))
            }
            Link::Cellular { apn, pin } => !apn.is_empty() && pin.bytes().all(|b| b.is_ascii_digit()),
        };
        let ipv4 = !matches!(self.ipv4, Ipv4::Static { prefix, .. } if prefix > 32);
        let ipv6 = !matches!(self.ipv6, Ipv6::Static { prefix, .. } if prefix > 128);
        let some = (self.ipv4, self.ipv6) != (Ipv4::Off, Ipv6::Off);
        let host = !self.host.is_empty() && self.host.bytes().all(|b| b.is_ascii_graphic());
        let facts = [
            ("the gateway's host", host),
            ("the gateway's port", self.port != 0),
            ("the link", link),
            ("the IPv4 address", ipv4),
            ("the IPv6 address", ipv6),
            ("a node without IPv4 and IPv6", some),
        ];
        match facts.into_iter().find(|(_, fine)| !fine) {
            Some((name, _)) => Err(SettingsError::Range(name)),
            None => Ok(()),
        }
    }

    /// Encodes the image; its length.
    pub fn encode(&self, buffer: &mut [u8]) -> Result<usize, SettingsError> {
        let mut e = Encoder::new(Cursor::new(buffer));
        e.array(12)?.u8(SETTINGS_VERSION)?.str(self.name.as_str())?.bytes(&self.token)?.bytes(self.key.as_bytes())?;
        e.str(&self.host)?.u16(self.port)?;
        match &self.pin {
            Some(pin) => e.bytes(pin)?,
            None => e.null()?,
        };
        match &self.link {
            Link::Ethernet => e.array(1)?.u8(1)?,
            Link::Wifi { ssid, passphrase } => e.array(3)?.u8(2)?.str(ssid)?.str(passphrase)?,
            Link::Cellular { apn, pin } => e.array(3)?.u8(3)?.str(apn)?.str(pin)?,
        };
        match self.ipv4 {
            Ipv4::Off => e.null()?,
            Ipv4::Dhcp => e.array(0)?,
            Ipv4::Static { address, prefix, router } => {
                e.array(3)?.bytes(&address.octets())?.u8(prefix)?;
                match router {
                    Some(router) => e.bytes(&router.octets())?,
                    None => e.null()?,
                }
            }
        };
        match self.ipv6 {
            Ipv6::Off => e.null()?,
            Ipv6::Auto => e.array(0)?,
            Ipv6::Static { address, prefix, router } => {
                e.array(3)?.bytes(&address.octets())?.u8(prefix)?;
                match router {
                    Some(router) => e.bytes(&router.octets())?,
                    None => e.null()?,
                }
            }
        };
        e.array(self.dns.len() as u64)?;
        for server in &self.dns {
            match server {
                IpAddr::V4(address) => e.bytes(&address.octets())?,
                IpAddr::V6(address) => e.bytes(&address.octets())?,
            };
        }
        e.u8(match self.radio {
            Radio::Always => 0,
            Radio::Batch => 1,
        })?;
        Ok(e.into_writer().position())
    }

    /// Decodes and checks an image. Total on any bytes.
    pub fn decode(image: &[u8]) -> Result<Self, SettingsError> {
        let mut d = Decoder::new(image);
        let length = d.array()?;
        let version = d.u8()?;
        if version > SETTINGS_VERSION {
            return Err(SettingsError::Newer(version));
        }
        if (version, length) != (SETTINGS_VERSION, Some(12)) {
            return Err(SettingsError::Shape);
        }
        let settings = Self {
            name: NodeName::new(d.str()?).map_err(|_| SettingsError::Range("the node's name"))?,
            token: sized(d.bytes()?)?,
            key: Key::new(sized(d.bytes()?)?),
            host: text(d.str()?)?,
            port: d.u16()?,
            pin: optional(&mut d, |d| sized(d.bytes()?))?,
            link: link(&mut d)?,
            ipv4: match address(&mut d)? {
                None => Ipv4::Off,
                Some(None) => Ipv4::Dhcp,
                Some(Some((address, prefix, router))) => {
                    Ipv4::Static { address: Ipv4Addr::from(address), prefix, router: router.map(Ipv4Addr::from) }
                }
            },
            ipv6: match address(&mut d)? {
                None => Ipv6::Off,
                Some(None) => Ipv6::Auto,
                Some(Some((address, prefix, router))) => {
                    Ipv6::Static { address: Ipv6Addr::from(address), prefix, router: router.map(Ipv6Addr::from) }
                }
            },
            dns: servers(&mut d)?,
            radio: match d.u8()? {
                0 => Radio::Always,
                1 => Radio::Batch,
                _ => return Err(SettingsError::Range("the radio's habit")),
            },
        };
        if d.position() != image.len() {
            return Err(SettingsError::Shape);
        }
        settings.validate()?;
        Ok(settings)
    }
}

fn sized<const N: usize>(bytes: &[u8]) -> Result<[u8; N], SettingsError> {
    bytes.try_into().map_err(|_| SettingsError::Shape)
}

fn text<const N: usize>(text: &str) -> Result<String<N>, SettingsError> {
    String::try_from(text).map_err(|_| SettingsError::Shape)
}

fn optional<'b, T>(
    d: &mut Decoder<'b>,
    read: impl FnOnce(&mut Decoder<'b>) -> Result<T, SettingsError>,
) -> Result<Option<T>, SettingsError> {
    if d.datatype()? == Type::Null {
        d.null()?;
        return Ok(None);
    }
    read(d).map(Some)
}

fn link(d: &mut Decoder<'_>) -> Result<Link, SettingsError> {
    match (d.array()?, d.u8()?) {
        (Some(1), 1) => Ok(Link::Ethernet),
        (Some(3), 2) => Ok(Link::Wifi { ssid: text(d.str()?)?, passphrase: text(d.str()?)? }),
        (Some(3), 3) => Ok(Link::Cellular { apn: text(d.str()?)?, pin: text(d.str()?)? }),
        _ => Err(SettingsError::Shape),
    }
}

/// An address with its prefix and its router, where they are told.
type Told<const N: usize> = Option<([u8; N], u8, Option<[u8; N]>)>;

fn address<const N: usize>(d: &mut Decoder<'_>) -> Result<Option<Told<N>>, SettingsError> {
    optional(d, |d| match d.array()? {
        Some(0) => Ok(None),
        Some(3) => {
            let (address, prefix) = (sized(d.bytes()?)?, d.u8()?);
            Ok(Some((address, prefix, optional(d, |d| sized(d.bytes()?))?)))
        }
        _ => Err(SettingsError::Shape),
    })
}

fn servers(d: &mut Decoder<'_>) -> Result<Vec<IpAddr, 2>, SettingsError> {
    let mut servers = Vec::new();
    for _ in 0..d.array()?.ok_or(SettingsError::Shape)? {
        let bytes = d.bytes()?;
        let server = match bytes.len() {
            4 => IpAddr::V4(Ipv4Addr::from(sized::<4>(bytes)?)),
            _ => IpAddr::V6(Ipv6Addr::from(sized::<16>(bytes)?)),
        };
        servers.push(server).map_err(|_| SettingsError::Shape)?;
    }
    Ok(servers)
}

#[cfg(test)]
mod tests {
    use std::format;

    use super::*;

    fn wired() -> Settings {
        Settings {
            name: NodeName::new("pond-7").unwrap(),
            token: [7; TOKEN_BYTES],
            key: Key::new([9; 32]),
            host: String::try_from("gateway.farm").unwrap(),
            port: 8883,
            pin: Some([1; 32]),
            link: Link::Ethernet,
            ipv4: Ipv4::Dhcp,
            ipv6: Ipv6::Auto,
            dns: Vec::new(),
            radio: Radio::Always,
        }
    }

    fn wireless() -> Settings {
        let link = Link::Wifi {
            ssid: String::try_from("养殖场").unwrap(),
            passphrase: String::try_from("secret-secret").unwrap(),
        };
        let router = Some(Ipv4Addr::new(192, 168, 8, 1));
        let six = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 7);
        Settings {
            link,
            pin: None,
            host: String::try_from("fd00::1").unwrap(),
            ipv4: Ipv4::Static { address: Ipv4Addr::new(192, 168, 8, 7), prefix: 24, router },
            ipv6: Ipv6::Static { address: six, prefix: 64, router: None },
            dns: Vec::from_slice(&[IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)]).unwrap(),
            radio: Radio::Batch,
            ..wired()
        }
    }

    fn image(of: &Settings) -> std::vec::Vec<u8> {
        let mut buffer = [0; SETTINGS_BYTES_MAX];
        let length = of.encode(&mut buffer).unwrap();
        buffer[..length].to_vec()
    }

    #[test]
    fn settings_survive_their_image_and_no_damage_to_it_does_harm() {
        for settings in [wired(), wireless()] {
            let image = image(&settings);
            assert_eq!(Settings::decode(&image).unwrap(), settings);
            for cut in 0..image.len() {
                assert!(Settings::decode(&image[..cut]).is_err());
            }
            for bit in 0..image.len() * 8 {
                let mut image = image.clone();
                image[bit / 8] ^= 1 << (bit % 8);
                if let Ok(settings) = Settings::decode(&image) {
                    assert_eq!(settings.validate(), Ok(()));
                }
            }
        }
    }

    #[test]
    fn the_longest_settings_have_room() {
        let long = "x".repeat(63);
        let settings = Settings {
            name: NodeName::new(&"n".repeat(32)).unwrap(),
            host: String::try_from(&*"h".repeat(HOST_BYTES_MAX)).unwrap(),
            link: Link::Wifi {
                ssid: String::try_from(&long[..32]).unwrap(),
                passphrase: String::try_from(&*long).unwrap(),
            },
            pin: Some([0xff; 32]),
            ..wireless()
        };
        assert_eq!(Settings::decode(&image(&settings)).unwrap(), settings);
    }

    #[test]
    fn a_newer_image_and_impossible_settings_are_refused_by_name() {
        let mut newer = image(&wired());
        newer[1] = SETTINGS_VERSION + 1;
        assert_eq!(Settings::decode(&newer), Err(SettingsError::Newer(SETTINGS_VERSION + 1)));
        let nowhere = Settings { ipv4: Ipv4::Off, ipv6: Ipv6::Off, ..wired() };
        assert_eq!(nowhere.validate(), Err(SettingsError::Range("a node without IPv4 and IPv6")));
        assert_eq!(Settings { port: 0, ..wired() }.validate(), Err(SettingsError::Range("the gateway's port")));
        let short = Link::Wifi { ssid: String::try_from("a").unwrap(), passphrase: String::try_from("short").unwrap() };
        assert_eq!(Settings { link: short, ..wired() }.validate(), Err(SettingsError::Range("the link")));
    }

    #[test]
    fn nothing_that_opens_anything_is_shown() {
        let shown = format!("{:?}", wireless());
        assert!(!shown.contains("secret") && !shown.contains("07, 07") && !shown.contains("7, 7"), "{shown}");
    }
}
