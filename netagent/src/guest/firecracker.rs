//! The network-interfaces of a Firecracker configuration file.

use serde::Serialize;

use crate::guest::json::pretty;
use crate::guest::{GuestConfig, GuestInterface};

#[derive(Serialize)]
struct Configuration {
    #[serde(rename = "network-interfaces")]
    interfaces: Vec<Device>,
}

#[derive(Serialize)]
struct Device {
    iface_id: String,
    guest_mac: String,
    host_dev_name: String,
}

/// Every device of the VM, whoever configures it: without one of them, `eth1` would become `eth0`.
pub(crate) fn print(guest: &GuestConfig) -> String {
    let interfaces = guest.interfaces.iter().map(device).collect();
    pretty(&Configuration { interfaces })
}

fn device(interface: &GuestInterface) -> Device {
    Device {
        iface_id: interface.device(),
        guest_mac: interface.mac_text(),
        host_dev_name: interface.tap_name.clone(),
    }
}
