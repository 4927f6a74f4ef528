//! The Wi-Fi radio, as the network half wants a link.

use cyw43::{Control, JoinAuth, JoinError, JoinOptions};
use embassy_net::Stack;
use node::settings::Link as LinkSettings;
use platform::{Link, LinkError};

/// The radio of a Pico W, once its firmware runs.
pub(crate) struct Radio {
    control: Control<'static>,
    stack: Stack<'static>,
    /// WPA2 alone, in turns: some access points do not take the offer of WPA3 beside it.
    wpa2: bool,
}

impl Radio {
    /// A radio whose firmware runs. It hears what IPv6 is resolved by: to all nodes, and to those whose
    /// address ends as its own does (RFC 4291 §2.7.1).
    pub(crate) async fn new(mut control: Control<'static>, stack: Stack<'static>) -> Self {
        let [.., d, e, f] = control.address().await;
        for group in [[0x33, 0x33, 0, 0, 0, 1], [0x33, 0x33, 0xff, d, e, f]] {
            // The list has room for ten.
            let _added = control.add_multicast_address(group).await;
        }
        control.set_power_management(cyw43::PowerManagementMode::PowerSave).await;
        Self { control, stack, wpa2: false }
    }
}

impl Link for Radio {
    async fn up(&mut self, settings: &LinkSettings) -> Result<(), LinkError> {
        let LinkSettings::Wifi { ssid, passphrase } = settings else { return Err(LinkError::Unsupported) };
        if self.stack.is_link_up() {
            return Ok(());
        }
        let mut options = match passphrase.is_empty() {
            true => JoinOptions::new_open(),
            false => JoinOptions::new(passphrase.as_bytes()),
        };
        if self.wpa2 && options.auth != JoinAuth::Open {
            options.auth = JoinAuth::Wpa2;
        }
        let result = self.control.join(ssid, options).await;
        if result.is_err() {
            self.wpa2 = !self.wpa2;
        }
        result.map_err(|error| match error {
            JoinError::NetworkNotFound => LinkError::NoNetwork,
            JoinError::AuthenticationFailure => LinkError::Refused,
            JoinError::JoinFailure(_) => LinkError::NoNetwork,
        })
    }

    async fn down(&mut self) {
        self.control.leave().await;
    }

    async fn rssi(&mut self) -> Option<i8> {
        if !self.stack.is_link_up() {
            return None;
        }
        i8::try_from(self.control.get_rssi().await).ok()
    }
}
