//! Addresses: how the node comes by its own, and by its gateway's.
//!
//! IPv4 by DHCP or told; IPv6 by SLAAC or told; either alone is enough. embassy-net 0.9 learns name
//! servers from DHCPv4 only, neither from router advertisements (RFC 8106) nor from DHCPv6: on a link
//! with IPv6 alone, the settings name a server or give the gateway as a literal address. What the
//! settings name holds until DHCP names others.

use core::net::IpAddr;

use embassy_net::dns::DnsQueryType;
use embassy_net::{Config, ConfigV4, IpAddress, Ipv4Cidr, Stack, StaticConfigV4};
use embassy_time::{Duration, with_timeout};
use heapless::Vec;
use node::settings::{Ipv4, Settings};

/// Addresses of a gateway that are tried.
pub const ADDRESSES_MAX: usize = 8;
/// Longest wait for a name server's answer, per family.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);

fn v4(settings: &Settings) -> ConfigV4 {
    match settings.ipv4 {
        Ipv4::Off => ConfigV4::None,
        Ipv4::Dhcp => ConfigV4::Dhcp(Default::default()),
        Ipv4::Static { address, prefix, router } => ConfigV4::Static(StaticConfigV4 {
            address: Ipv4Cidr::new(address, prefix.min(32)),
            gateway: router,
            dns_servers: servers_v4(settings),
        }),
    }
}

fn servers_v4<const N: usize>(settings: &Settings) -> Vec<core::net::Ipv4Addr, N> {
    let mut servers = Vec::new();
    for server in &settings.dns {
        if let IpAddr::V4(address) = server {
            let _fits = servers.push(*address);
        }
    }
    servers
}

#[cfg(feature = "ipv6")]
mod v6 {
    use embassy_net::{ConfigV6, Ipv6Cidr, StaticConfigV6};
    use node::settings::Ipv6;

    use super::{IpAddr, Settings, Vec};

    pub(super) fn config(settings: &Settings) -> ConfigV6 {
        match settings.ipv6 {
            Ipv6::Off => ConfigV6::None,
            Ipv6::Auto => ConfigV6::Slaac,
            Ipv6::Static { address, prefix, router } => {
                let address = Ipv6Cidr::new(address, prefix.min(128));
                ConfigV6::Static(StaticConfigV6 { address, gateway: router, dns_servers: servers(settings) })
            }
        }
    }

    /// A config that says nothing but the name servers, where there are any.
    pub(super) fn only_servers(settings: &Settings) -> Option<ConfigV6> {
        let servers: Vec<_, 3> = servers(settings);
        // The stack takes nothing but an address of somebody.
        let address = Ipv6Cidr::new(core::net::Ipv6Addr::LOCALHOST, 128);
        let config = StaticConfigV6 { address, gateway: None, dns_servers: servers };
        (!config.dns_servers.is_empty()).then_some(ConfigV6::Static(config))
    }

    fn servers<const N: usize>(settings: &Settings) -> Vec<core::net::Ipv6Addr, N> {
        let mut servers = Vec::new();
        for server in &settings.dns {
            if let IpAddr::V6(address) = server {
                let _fits = servers.push(*address);
            }
        }
        servers
    }
}

/// The config that a board makes its stack with: that of these settings as far as IPv6 goes, because
/// embassy-net 0.9 lets a stack take part in SLAAC from its beginning or never; the rest the network
/// half brings.
#[cfg(feature = "ipv6")]
pub fn first_config(settings: &Settings) -> Config {
    let mut config = Config::default();
    config.ipv6 = v6::config(settings);
    config
}

/// The config that a board makes its stack with: none yet, the network half brings its own.
#[cfg(not(feature = "ipv6"))]
pub fn first_config(_settings: &Settings) -> Config {
    Config::default()
}

/// Takes on what the settings say.
pub(crate) fn configure(stack: Stack<'_>, settings: &Settings) {
    // The stack keeps the name servers that it was told last while a config names none.
    let servers: Vec<_, 3> = servers_v4(settings);
    if !servers.is_empty() {
        let address = Ipv4Cidr::new(core::net::Ipv4Addr::LOCALHOST, 32);
        stack.set_config_v4(ConfigV4::Static(StaticConfigV4 { address, gateway: None, dns_servers: servers }));
    }
    #[cfg(feature = "ipv6")]
    {
        if let Some(config) = v6::only_servers(settings) {
            stack.set_config_v6(config);
        }
        stack.set_config_v6(v6::config(settings));
    }
    stack.set_config_v4(v4(settings));
}

/// An address as the stack takes it; `None` when it is of a family that this firmware does not speak.
pub(super) fn for_stack(address: IpAddr) -> Option<IpAddress> {
    match address {
        IpAddr::V4(address) => Some(IpAddress::Ipv4(address)),
        #[cfg(feature = "ipv6")]
        IpAddr::V6(address) => Some(IpAddress::Ipv6(address)),
        #[cfg(not(feature = "ipv6"))]
        IpAddr::V6(_) => None,
    }
}

/// The addresses behind the gateway's name, to be tried in this order; none when nobody knows it.
pub(crate) async fn resolve(stack: Stack<'_>, host: &str) -> Vec<IpAddr, ADDRESSES_MAX> {
    let mut found = Vec::new();
    if let Ok(address) = host.parse() {
        let _fits = found.push(address);
        return found;
    }
    #[cfg(feature = "ipv6")]
    if stack.config_v6().is_some() {
        ask(stack, host, DnsQueryType::Aaaa, &mut found).await;
    }
    if stack.config_v4().is_some() {
        ask(stack, host, DnsQueryType::A, &mut found).await;
    }
    found
}

async fn ask(stack: Stack<'_>, host: &str, kind: DnsQueryType, found: &mut Vec<IpAddr, ADDRESSES_MAX>) {
    // No answer is no address: the caller counts it and comes again.
    if let Ok(Ok(answers)) = with_timeout(ANSWER_WITHIN, stack.dns_query(host, kind)).await {
        for answer in answers {
            let _fits = found.push(answer.into());
        }
    }
}
