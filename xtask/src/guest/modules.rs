//! Which kernel modules a guest loads, and in which order.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// The name of the list of modules that are built into the kernel, beside the module files.
pub const BUILTIN: &str = "builtin";

/// The files of these modules and of all that they depend on, in the order in which `insmod` takes them. Modules
/// that are built into the kernel are left out.
pub fn in_order(dir: &Path, names: &[&str]) -> Result<Vec<PathBuf>> {
    let files = files(dir)?;
    let builtin = fs::read_to_string(dir.join(BUILTIN)).unwrap_or_default();
    let builtin: Vec<String> = builtin
        .lines()
        .map(|line| module_name(Path::new(line)))
        .collect();
    let mut order = Vec::new();
    for name in names {
        let name = name.replace('-', "_");
        if !builtin.contains(&name) {
            visit(&files, &name, &mut order)?;
        }
    }
    Ok(order)
}

/// Appends the file of `name` after those of the modules it needs.
fn visit(files: &BTreeMap<String, PathBuf>, name: &str, order: &mut Vec<PathBuf>) -> Result<()> {
    let file = files
        .get(name)
        .with_context(|| format!("the guest kernel has no module {name}"))?;
    if order.contains(file) {
        return Ok(());
    }
    let bytes = fs::read(file).with_context(|| format!("cannot read {}", file.display()))?;
    for needed in depends(&bytes) {
        visit(files, &needed, order)?;
    }
    order.push(file.clone());
    Ok(())
}

fn files(dir: &Path) -> Result<BTreeMap<String, PathBuf>> {
    let mut files = BTreeMap::new();
    for entry in fs::read_dir(dir).with_context(|| format!("cannot read {}", dir.display()))? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "ko") {
            files.insert(module_name(&path), path);
        }
    }
    Ok(files)
}

/// `virtio_rng` for `drivers/char/hw_random/virtio-rng.ko`: the kernel takes both characters for one.
fn module_name(path: &Path) -> String {
    path.file_stem()
        .unwrap_or_default()
        .to_string_lossy()
        .replace('-', "_")
}

/// What the module file says it needs: `depends=a,b` among the zero-ended strings of its section `.modinfo`.
fn depends(module: &[u8]) -> Vec<String> {
    const KEY: &[u8] = b"depends=";
    let Some(value) = module
        .split(|byte| *byte == 0)
        .find_map(|text| text.strip_prefix(KEY))
    else {
        return Vec::new();
    };
    let value = String::from_utf8_lossy(value);
    value
        .split(',')
        .filter(|name| !name.is_empty())
        .map(|name| name.replace('-', "_"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn module(depends: &str) -> Vec<u8> {
        [
            b"\x7fELF\0license=GPL\0depends=".as_slice(),
            depends.as_bytes(),
            b"\0vermagic=6.1\0",
        ]
        .concat()
    }

    #[test]
    fn a_module_comes_after_those_it_needs_and_only_once() {
        let dir = std::env::temp_dir().join(format!("netagent-modules-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        for (name, needs) in [
            ("ring", ""),
            ("virtio", ""),
            ("net-fail", "virtio"),
            ("card", "net_fail,ring"),
        ] {
            fs::write(dir.join(format!("{name}.ko")), module(needs)).unwrap();
        }
        fs::write(dir.join(BUILTIN), "kernel/net/packet/af_packet.ko\n").unwrap();

        let order = in_order(&dir, &["ring", "card", "af_packet"]).unwrap();
        let names: Vec<_> = order.iter().map(|file| module_name(file)).collect();
        assert_eq!(names, ["ring", "virtio", "net_fail", "card"]);
        assert!(in_order(&dir, &["absent"]).is_err());
        fs::remove_dir_all(&dir).unwrap();
    }
}
