//! Settings of a node file: how the node gets to its network, where its gateway is and what key
//! that has.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;

use node::settings::{HOST_BYTES_MAX, Ipv4, Ipv6, Link, Radio, Settings, TOKEN_BYTES};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::server::ParsedCertificate;
use sha2::{Digest as _, Sha256};
use telemetry::NodeName;
use telemetry::mac::Key;
use toml::Spanned;

use super::Reading;
use super::board::LinkKind;
use super::document::{self, Document, Name};

/// Longest file with a passphrase or PIN, in bytes.
const SECRET_BYTES_MAX: usize = 256;

impl Reading<'_> {
    /// The settings but for name, token and key; nothing where something is wrong.
    pub(super) fn settings(&mut self, document: &Document) -> Option<Settings> {
        let before = self.found.all.len();
        let link = self.link(document);
        let table = &document.link;
        let ipv4 = self.own_address(table.ipv4.as_ref(), "dhcp", Ipv4::Dhcp, Ipv4::Off, |address, prefix, router| {
            let (IpAddr::V4(address), true) = (address, prefix <= 32) else { return None };
            let router = match router {
                None => None,
                Some(IpAddr::V4(router)) => Some(router),
                Some(IpAddr::V6(_)) => return None,
            };
            Some(Ipv4::Static { address, prefix, router })
        });
        let ipv6 = self.own_address(table.ipv6.as_ref(), "auto", Ipv6::Auto, Ipv6::Off, |address, prefix, router| {
            let (IpAddr::V6(address), true) = (address, prefix <= 128) else { return None };
            let router = match router {
                None => None,
                Some(IpAddr::V6(router)) => Some(router),
                Some(IpAddr::V4(_)) => return None,
            };
            Some(Ipv6::Static { address, prefix, router })
        });
        let mut dns = heapless::Vec::new();
        for server in &table.dns {
            match server.get_ref().parse::<IpAddr>() {
                Ok(address) if dns.push(address).is_ok() => {}
                Ok(_) => self.found.of(server, "a node has room for two name servers"),
                Err(_) => self.found.of(server, format!("\"{}\" is no address", server.get_ref())),
            }
        }
        let gateway = &document.gateway;
        let host = heapless::String::try_from(gateway.host.get_ref().as_str());
        if host.is_err() {
            self.found.of(&gateway.host, format!("a gateway's host has {HOST_BYTES_MAX} bytes at most"));
        }
        let pin = self.pin_of(document);
        let settings = Settings {
            // Stands in for the file's, which may be wrong and is told elsewhere.
            name: NodeName::new("node").ok()?,
            token: [0; TOKEN_BYTES],
            key: Key::new([0; 32]),
            host: host.ok()?,
            port: *gateway.port.get_ref(),
            pin,
            link: link?,
            ipv4: ipv4?,
            ipv6: ipv6?,
            dns,
            radio: match table.radio {
                document::Radio::Always => Radio::Always,
                document::Radio::Batch => Radio::Batch,
            },
        };
        if let Err(error) = settings.validate() {
            let at = match error.to_string() {
                it if it.contains("host") => gateway.host.span().start,
                it if it.contains("port") => gateway.port.span().start,
                _ => table.kind.span().start,
            };
            self.found.at(at, error.to_string());
        }
        (self.found.all.len() == before).then_some(settings)
    }

    fn link(&mut self, document: &Document) -> Option<Link> {
        let table = &document.link;
        let (kind, at) = (*table.kind.get_ref(), table.kind.span().start);
        if !self.board.links.contains(&kind) {
            let has: Vec<_> = self.board.links.iter().map(|it| format!("\"{}\"", word(*it))).collect();
            let what = format!("{} has no {}: write kind = {}", self.board.name, word(kind), has.join(" or "));
            self.found.at(at, what);
            return None;
        }
        let strangers: &[(&str, Option<usize>)] = &[
            ("ssid", table.ssid.as_ref().filter(|_| kind != LinkKind::Wifi).map(|it| it.span().start)),
            (
                "passphrase_file",
                table.passphrase_file.as_ref().filter(|_| kind != LinkKind::Wifi).map(|it| it.span().start),
            ),
            ("apn", table.apn.as_ref().filter(|_| kind != LinkKind::Cellular).map(|it| it.span().start)),
            ("pin_file", table.pin_file.as_ref().filter(|_| kind != LinkKind::Cellular).map(|it| it.span().start)),
        ];
        for (key, at) in strangers {
            if let Some(at) = at {
                self.found.at(*at, format!("{key} means nothing with kind = \"{}\"", word(kind)));
            }
        }
        match kind {
            LinkKind::Ethernet => Some(Link::Ethernet),
            LinkKind::Wifi => {
                let ssid = self.needed(at, "ssid", table.ssid.as_ref());
                let passphrase = self.secret(table.passphrase_file.as_ref(), "passphrase", "8 to 63 characters");
                Some(Link::Wifi { ssid: ssid?, passphrase: passphrase? })
            }
            LinkKind::Cellular => {
                let apn = self.needed(at, "apn", table.apn.as_ref());
                let pin = self.secret(table.pin_file.as_ref(), "PIN", "4 to 8 digits");
                Some(Link::Cellular { apn: apn?, pin: pin? })
            }
        }
    }

    fn needed<const N: usize>(&mut self, at: usize, key: &str, name: Option<&Name>) -> Option<heapless::String<N>> {
        let Some(name) = name else {
            self.found.at(at, format!("this link needs its {key}: write {key} = \"…\""));
            return None;
        };
        let text = heapless::String::try_from(name.get_ref().as_str()).ok().filter(|it| !it.is_empty());
        if text.is_none() {
            self.found.of(name, format!("{key} has 1 to {N} bytes"));
        }
        text
    }

    /// What a file holds, without the end of its line; empty without a file.
    fn secret<const N: usize>(
        &mut self,
        file: Option<&Spanned<std::path::PathBuf>>,
        what: &str,
        shape: &str,
    ) -> Option<heapless::String<N>> {
        let Some(file) = file else { return Some(heapless::String::new()) };
        let path = self.folder.join(file.get_ref());
        let text = match std::fs::read_to_string(&path) {
            Ok(text) if text.len() <= SECRET_BYTES_MAX => text,
            Ok(_) => String::new(),
            Err(error) => {
                let why = format!("read {}: {error}; put the {what} into it, alone on a line", path.display());
                self.found.at(file.span().start, why);
                return None;
            }
        };
        let text = text.trim_end_matches(['\r', '\n']);
        let least = if what == "PIN" { 4 } else { 8 };
        let fits = heapless::String::try_from(text).ok().filter(|_| text.len() >= least);
        let fits = fits.filter(|_| what != "PIN" || text.bytes().all(|b| b.is_ascii_digit()));
        if fits.is_none() {
            self.found.at(file.span().start, format!("{} holds no {what}: {shape}, alone on a line", path.display()));
        }
        fits
    }

    /// `word` for what the network says, `"off"`, or a table with an address; else a complaint.
    fn own_address<T>(
        &mut self,
        value: Option<&Spanned<toml::Value>>,
        word: &str,
        asked: T,
        off: T,
        told: impl FnOnce(IpAddr, u8, Option<IpAddr>) -> Option<T>,
    ) -> Option<T> {
        let Some(value) = value else { return Some(asked) };
        let found = match value.get_ref() {
            toml::Value::String(it) if it == word => return Some(asked),
            toml::Value::String(it) if it == "off" => return Some(off),
            toml::Value::Table(table) if table.keys().all(|key| key == "address" || key == "router") => {
                let text = |key: &str| table.get(key).map(|it| it.as_str().unwrap_or_default());
                let address = text("address").and_then(|it| it.split_once('/'));
                let address = address.and_then(|(address, prefix)| Some((address.parse().ok()?, prefix.parse().ok()?)));
                let router = match text("router") {
                    None => Some(None),
                    Some(it) => it.parse().ok().map(Some),
                };
                address.zip(router).and_then(|((address, prefix), router)| told(address, prefix, router))
            }
            _ => None,
        };
        if found.is_none() {
            let example = if word == "dhcp" {
                (Ipv4Addr::new(192, 168, 8, 7).to_string() + "/24", "192.168.8.1".to_owned())
            } else {
                (Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 7).to_string() + "/64", "fe80::1".to_owned())
            };
            self.found.at(
                value.span().start,
                format!("write \"{word}\", \"off\" or {{ address = \"{}\", router = \"{}\" }}", example.0, example.1),
            );
        }
        found
    }

    /// The gateway's key as its certificate, or the file itself, says it.
    fn pin_of(&mut self, document: &Document) -> Option<[u8; 32]> {
        let gateway = &document.gateway;
        let (pin, at) = match (&gateway.pin, &gateway.certificate) {
            (None, None) => return None,
            (Some(pin), Some(_)) => {
                self.found.of(pin, "pin and certificate say the same thing: give one of them");
                return None;
            }
            (Some(pin), None) => {
                let bytes = unhex(pin.get_ref());
                if bytes.is_none() {
                    self.found.of(
                        pin,
                        "a pin is the SHA-256 of the gateway's public key: 64 hex digits; or give certificate",
                    );
                }
                (bytes, pin.span().start)
            }
            (None, Some(file)) => {
                let path = self.folder.join(file.get_ref());
                match pin_of_certificate(&path) {
                    Ok(pin) => (Some(pin), file.span().start),
                    Err(why) => {
                        self.found.at(file.span().start, format!("read the certificate {}: {why}", path.display()));
                        (None, file.span().start)
                    }
                }
            }
        };
        if !self.board.tls {
            let what =
                format!("{} has no room for TLS: leave it out where the network itself is trusted", self.board.name);
            self.found.at(at, what);
        }
        pin
    }
}

fn word(kind: LinkKind) -> &'static str {
    match kind {
        LinkKind::Ethernet => "ethernet",
        LinkKind::Wifi => "wifi",
        LinkKind::Cellular => "cellular",
    }
}

/// SHA-256 of the public key (SubjectPublicKeyInfo) of a certificate in PEM, the first in its file.
fn pin_of_certificate(file: &Path) -> Result<[u8; 32], String> {
    let certificate = CertificateDer::from_pem_file(file).map_err(|error| error.to_string())?;
    let parsed = ParsedCertificate::try_from(&certificate).map_err(|error| error.to_string())?;
    Ok(Sha256::digest(parsed.subject_public_key_info().as_ref()).into())
}

/// Bytes of hex digits, exactly as many as fit.
pub fn unhex<const N: usize>(text: &str) -> Option<[u8; N]> {
    let mut bytes = [0; N];
    if text.len() != 2 * N || !text.is_ascii() {
        return None;
    }
    for (at, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(text.get(2 * at..2 * at + 2)?, 16).ok()?;
    }
    Some(bytes)
}
