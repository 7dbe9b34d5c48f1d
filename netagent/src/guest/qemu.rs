//! Arguments of QEMU, for a shell.

use crate::guest::format::FormatError;
use crate::guest::{GuestConfig, GuestInterface};
use crate::spec::is_model;

/// MTU of a device that is told none.
const MTU_DEFAULT: u32 = 1500;

/// One line with every device of the VM, whoever configures it: without one of them, `eth1` would become `eth0`.
pub(crate) fn print(guest: &GuestConfig) -> Result<String, FormatError> {
    let words: Vec<String> = guest
        .interfaces
        .iter()
        .map(arguments)
        .collect::<Result<_, _>>()?;
    Ok(words.join(" ") + "\n")
}

fn arguments(interface: &GuestInterface) -> Result<String, FormatError> {
    // Requests are checked; what an older agent stored was not.
    if !is_model(&interface.model) {
        return Err(FormatError::Model {
            device: interface.device(),
            model: interface.model.clone(),
        });
    }
    let (backend, device) = (backend(interface), device(interface));
    Ok(format!("-netdev {} -device {device}", quoted(&backend)))
}

/// A TAP of several queues opens only to a VMM that asks for several, whatever the model makes of them.
fn backend(interface: &GuestInterface) -> String {
    let mut text = format!(
        "tap,id={},ifname={},script=no,downscript=no",
        interface.device(),
        // QEMU's own way to write a comma inside a value.
        interface.tap_name.replace(',', ",,"),
    );
    if interface.queues > 1 {
        text.push_str(&format!(",queues={}", interface.queues));
    }
    text
}

fn device(interface: &GuestInterface) -> String {
    let mac = interface.mac_text();
    // What `-nic model=virtio` takes, `-device` does not.
    let model = match interface.model.as_str() {
        "virtio" => "virtio-net-pci",
        model => model,
    };
    let mut text = format!("{model},netdev={},mac={mac}", interface.device());
    if !model.starts_with("virtio") {
        return text;
    }
    if interface.mtu != MTU_DEFAULT {
        text.push_str(&format!(",host_mtu={}", interface.mtu));
    }
    if interface.queues > 1 {
        text.push_str(",mq=on");
        if model.starts_with("virtio-net-pci") {
            // Two for each pair of queues, one for its control queue, one for its configuration.
            let vectors = 2 * u32::from(interface.queues) + 2;
            text.push_str(&format!(",vectors={vectors}"));
        }
    }
    text
}

/// One word of a POSIX shell.
fn quoted(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.,=:+/@".contains(&byte);
    if text.bytes().all(plain) {
        text.to_owned()
    } else {
        format!("'{}'", text.replace('\'', r"'\''"))
    }
}
