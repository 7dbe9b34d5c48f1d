//! What Debian's cloud-init makes of a network configuration, for each kind of image.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;

use tempfile::TempDir;
use xtask::paths;

/// What configures the network of an image, and a distribution that uses it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Renderer {
    /// Ubuntu.
    Netplan,
    /// Debian's ifupdown.
    Eni,
    /// systemd-networkd.
    Networkd,
    /// Fedora and its relatives.
    Sysconfig,
}

impl Renderer {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Netplan, Self::Eni, Self::Networkd, Self::Sysconfig];

    /// As cloud-init calls it, and the distribution.
    fn names(self) -> (&'static str, &'static str) {
        match self {
            Self::Netplan => ("netplan", "ubuntu"),
            Self::Eni => ("eni", "debian"),
            Self::Networkd => ("networkd", "debian"),
            Self::Sysconfig => ("sysconfig", "fedora"),
        }
    }
}

/// The files that cloud-init writes into an image for this network configuration (YAML), by their path in it.
///
/// # Panics
/// When cloud-init refuses the configuration, or warns of it.
#[must_use]
pub fn render(configuration: &str, renderer: Renderer) -> BTreeMap<String, String> {
    let modules = paths::cloud_init().join(paths::PYTHON_MODULES);
    assert!(
        modules.is_dir(),
        "there is no cloud-init: run `cargo xtask setup`"
    );
    let directory = TempDir::with_prefix("netagent-cloud-init-").expect("a temporary directory");
    let input = directory.path().join("network-config");
    fs::write(&input, configuration).expect("a file of our own");
    let image = directory.path().join("image");
    let (kind, distribution) = renderer.names();
    let mut command = Command::new(paths::PYTHON);
    command
        .args(["-m", "cloudinit.cmd.devel.net_convert", "--kind", "yaml"])
        .args(["--output-kind", kind, "--distro", distribution])
        .arg("--network-data")
        .arg(&input)
        .arg("--directory")
        .arg(&image)
        .env("PYTHONPATH", &modules)
        .env("PYTHONDONTWRITEBYTECODE", "1");
    let output = command.output().unwrap_or_else(|error| {
        panic!(
            "cannot run {}: {error}: run `cargo xtask setup`",
            paths::PYTHON
        )
    });
    let complaint = String::from_utf8_lossy(&output.stderr);
    let is_taken = output.status.success() && !complaint.to_lowercase().contains("warning");
    assert!(is_taken, "cloud-init, {kind}: {complaint}\n{configuration}");
    let mut files = BTreeMap::new();
    collect(&image, &image, &mut files);
    files
}

fn collect(top: &Path, directory: &Path, files: &mut BTreeMap<String, String>) {
    for entry in fs::read_dir(directory).expect("cloud-init made it") {
        let path = entry.expect("cloud-init made it").path();
        if path.is_dir() {
            collect(top, &path, files);
            continue;
        }
        let name = path.strip_prefix(top).expect("it lies in it");
        let text = fs::read_to_string(&path).expect("cloud-init writes text");
        files.insert(name.display().to_string(), text);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONFIGURATION: &str = "network:
  version: 2
  ethernets:
    eth0:
      match: {macaddress: 'aa:fc:00:00:00:01'}
      set-name: eth0
      addresses: [172.16.0.2/30]
      routes: [{to: 0.0.0.0/0, via: 172.16.0.1}]
";

    #[test]
    fn cloud_init_renders_an_address_for_every_kind_of_image() {
        for renderer in Renderer::ALL {
            let files = render(CONFIGURATION, renderer);
            let holds = |text: &str| files.values().any(|file| file.contains(text));
            assert!(
                holds("172.16.0.2") && holds("172.16.0.1"),
                "{renderer:?}: {files:#?}"
            );
        }
    }
}
