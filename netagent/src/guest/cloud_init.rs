//! A network-config of cloud-init, version 2, which is netplan's form.

use crate::guest::forwarding::settings;
use crate::guest::{GuestConfig, GuestInterface};

/// The interfaces that the guest configures by itself. All is said, so nothing is to be asked of the network.
pub(crate) fn print(guest: &GuestConfig) -> String {
    let interfaces: String = guest.configured().map(ethernet).collect();
    let ethernets = if interfaces.is_empty() {
        " {}\n".to_owned()
    } else {
        format!("\n{interfaces}")
    };
    format!(
        "{}network:\n  version: 2\n  ethernets:{ethernets}",
        forwarding(guest)
    )
}

/// A network-config has no place for what the kernel of a relay must be told, but user-data has.
fn forwarding(guest: &GuestConfig) -> String {
    let settings = settings(guest);
    if settings.is_empty() {
        return String::new();
    }
    let lines = settings.iter();
    let lines = lines.map(|(name, value)| format!("#       {name} = {value}\n"));
    let lines: String = lines.collect();
    format!(
        "# Other instances have this VM as their relay, so it must forward. Its user-data needs:\n# write_files:\n\
         #   - path: /etc/sysctl.d/90-relay.conf\n#     content: |\n{lines}# runcmd:\n#   - sysctl --system\n"
    )
}

fn ethernet(interface: &GuestInterface) -> String {
    let device = interface.device();
    // Small letters, as the guest's kernel shows it; quoted, since YAML 1.1 may read a number to the base of sixty.
    let mac = interface.mac_text().to_lowercase();
    let mut text = format!(
        "    {device}:\n      match:\n        macaddress: \"{mac}\"\n      set-name: {device}\n      dhcp4: false\n      \
         dhcp6: false\n      accept-ra: false\n      mtu: {}\n      addresses:\n",
        interface.mtu
    );
    text.push_str(&list("        ", interface.addresses()));
    text.push_str(&gateways(interface));
    let servers = interface.nameservers();
    if !servers.is_empty() {
        text.push_str("      nameservers:\n        addresses:\n");
        text.push_str(&list("          ", servers));
    }
    text
}

/// `gateway4` and `gateway6` are what every renderer of cloud-init takes: of `routes`, 22.4 makes `::/64` out of `::/0`,
/// and ifupdown's form needs net-tools. An off-link gateway can be said in a route alone, and to netplan alone.
fn gateways(interface: &GuestInterface) -> String {
    let mut text = match interface.route {
        None => String::new(),
        Some(route) if route.on_link => format!(
            "      routes:\n        - to: \"0.0.0.0/0\"\n          via: \"{}\"\n          on-link: true\n",
            route.gateway
        ),
        Some(route) => format!("      gateway4: \"{}\"\n", route.gateway),
    };
    if let Some(gateway) = interface.v6.as_ref().and_then(|v6| v6.gateway) {
        text.push_str(&format!("      gateway6: \"{gateway}\"\n"));
    }
    text
}

fn list(indent: &str, entries: Vec<impl std::fmt::Display>) -> String {
    let lines = entries
        .iter()
        .map(|entry| format!("{indent}- \"{entry}\"\n"));
    lines.collect()
}
