//! The printed formats (G-2): which there are, and what cannot be printed.

use std::net::{IpAddr, Ipv4Addr};

use ipnet::Ipv4Net;

use crate::guest::{GuestConfig, GuestInterface, cloud_init, cmdline, firecracker, json, qemu};
use crate::spec;

/// A form in which a person or a VMM takes the configuration of a guest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// What the guest sets, as JSON
    #[default]
    Json,
    /// `ip=` words for the kernel's command line
    Cmdline,
    /// A network-config of cloud-init, version 2
    CloudInit,
    /// The network-interfaces of a Firecracker configuration
    Firecracker,
    /// Arguments of QEMU
    Qemu,
}

/// Why a guest has no configuration in this form.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[expect(missing_docs, reason = "the text says it")]
pub enum FormatError {
    #[error("Unknown format '{0}': use json, cmdline, cloud-init, firecracker or qemu")]
    Unknown(String),
    #[error(
        "Network interface {device}: ip= cannot express the gateway {gateway}, for it lies outside {address}: \
         use the format cloud-init, or ip=dhcp with a client that takes option 121"
    )]
    GatewayOffLink {
        device: String,
        gateway: Ipv4Addr,
        address: Ipv4Net,
    },
    #[error(
        "Network interface {device}: no QEMU device has a name like {model:?}: create the instance with another \
         model, as `qemu-system-x86_64 -device help` names them"
    )]
    Model { device: String, model: String },
}

impl Format {
    /// Every form, in the order in which texts name them.
    pub const ALL: [Self; 5] = [
        Self::Json,
        Self::Cmdline,
        Self::CloudInit,
        Self::Firecracker,
        Self::Qemu,
    ];

    /// The form of this name.
    ///
    /// # Errors
    /// Where no form has the name.
    pub fn parse(name: &str) -> Result<Self, FormatError> {
        let named = Self::ALL.into_iter().find(|format| format.name() == name);
        named.ok_or_else(|| FormatError::Unknown(name.to_owned()))
    }

    /// Its name in requests.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Json => "json",
            Self::Cmdline => "cmdline",
            Self::CloudInit => "cloud-init",
            Self::Firecracker => "firecracker",
            Self::Qemu => "qemu",
        }
    }

    /// Whether it is JSON.
    #[must_use]
    pub const fn is_json(self) -> bool {
        matches!(self, Self::Json | Self::Firecracker)
    }

    /// What HTTP calls it.
    #[must_use]
    pub const fn content_type(self) -> &'static str {
        match self {
            Self::Json | Self::Firecracker => "application/json",
            Self::CloudInit => "text/yaml; charset=utf-8",
            Self::Cmdline | Self::Qemu => "text/plain; charset=utf-8",
        }
    }

    /// The configuration in this form, ready to paste; it ends with one line end.
    ///
    /// # Errors
    /// Where the form cannot express it.
    pub fn print(self, guest: &GuestConfig) -> Result<String, FormatError> {
        match self {
            Self::Json => Ok(json::print(guest)),
            Self::Cmdline => cmdline::print(guest),
            Self::CloudInit => Ok(cloud_init::print(guest)),
            Self::Firecracker => Ok(firecracker::print(guest)),
            Self::Qemu => qemu::print(guest),
        }
    }
}

impl GuestConfig {
    /// The interfaces that the guest is to configure by itself (I-17). Devices keep their numbers.
    pub(crate) fn configured(&self) -> impl Iterator<Item = &GuestInterface> {
        self.interfaces
            .iter()
            .filter(|interface| interface.autoconfig)
    }
}

impl GuestInterface {
    /// Its addresses with their prefixes, IPv4 first.
    pub(crate) fn addresses(&self) -> Vec<String> {
        let v6 = self.v6.iter().map(|v6| v6.address.to_string());
        std::iter::once(self.address.to_string())
            .chain(v6)
            .collect()
    }

    /// Name servers that need no zone. A link-local one is the gateway, which answers at its IPv4 address too.
    pub(crate) fn nameservers(&self) -> Vec<IpAddr> {
        let v4 = self.nameservers_v4().map(IpAddr::V4);
        let v6 = self.v6.iter().flat_map(|v6| &v6.nameservers).copied();
        let global = v6.filter(|server| !server.is_unicast_link_local());
        v4.chain(global.map(IpAddr::V6)).collect()
    }

    /// Those of IPv4 that the guest has a route to. A host's end outside the network has none without a default route.
    pub(crate) fn nameservers_v4(&self) -> impl Iterator<Item = Ipv4Addr> {
        let has_route = self.route.is_some() || self.address.contains(&self.host);
        let servers = self.nameservers.iter().copied();
        servers.filter(move |server| has_route || *server != self.host)
    }

    /// Its MAC address as every form takes it.
    pub(crate) fn mac_text(&self) -> String {
        spec::mac_text(self.mac)
    }
}

#[cfg(test)]
mod tests;
