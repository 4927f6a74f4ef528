//! The Wi-Fi radio, as the network half wants a link.

use esp_radio::wifi::sta::StationConfig;
use esp_radio::wifi::{
    AuthenticationMethodConfig, Config, ConnectionError, DisconnectReason, WifiController, WifiError,
};
use node::settings::Link as LinkSettings;
use platform::{Link, LinkError};

/// The radio.
pub(crate) struct Radio(pub(crate) WifiController<'static>);

fn refused(error: WifiError) -> LinkError {
    match error {
        WifiError::InvalidSsid | WifiError::InvalidPassword | WifiError::InvalidArguments => LinkError::Refused,
        _ => LinkError::Device,
    }
}

impl Link for Radio {
    async fn up(&mut self, settings: &LinkSettings) -> Result<(), LinkError> {
        let LinkSettings::Wifi { ssid, passphrase } = settings else { return Err(LinkError::Unsupported) };
        if self.0.is_connected() {
            return Ok(());
        }
        let mut station = StationConfig::default().with_ssid(ssid.as_str().try_into().map_err(refused)?);
        station = match passphrase.is_empty() {
            true => station.with_authentication(AuthenticationMethodConfig::Open),
            false => {
                let passphrase = passphrase.as_str().try_into().map_err(refused)?;
                // The weakest that is taken; the two agree on the strongest that both have.
                station.with_authentication(AuthenticationMethodConfig::Wpa2Personal(passphrase))
            }
        };
        self.0.set_config(&Config::Station(station)).map_err(refused)?;
        match self.0.connect_async().await {
            Ok(_) => Ok(()),
            Err(ConnectionError::Failed(info)) => Err(match info.reason {
                DisconnectReason::NoAccessPointFound => LinkError::NoNetwork,
                _ => LinkError::Refused,
            }),
            Err(_) => Err(LinkError::Device),
        }
    }

    async fn down(&mut self) {
        // One that is not connected is down.
        let _down = self.0.disconnect_async().await;
    }

    async fn rssi(&mut self) -> Option<i8> {
        if !self.0.is_connected() {
            return None;
        }
        self.0.rssi().ok().and_then(|dbm| i8::try_from(dbm).ok())
    }
}
