//! Builds the eBPF programs and leaves them in `OUT_DIR/netagent-ebpf`.
//!
//! It needs a rustc with its own library source and a bpf-linker on that rustc's own libLLVM. `cargo xtask setup`
//! installs both and records them in `<cache>/toolchain.env`; without that record they are looked for.

use std::collections::BTreeMap;
use std::env;
use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

const ADVICE: &str = "`cargo xtask setup` installs what the eBPF build needs";
const TARGET: &str = "bpfel-unknown-none";

fn main() {
    if let Err(error) = build() {
        eprintln!("{error}\n{ADVICE}");
        std::process::exit(1);
    }
}

fn build() -> Result<(), Box<dyn Error>> {
    let workspace = PathBuf::from(env::var("CARGO_MANIFEST_DIR")?)
        .join("..")
        .canonicalize()?;
    let recorded = read_record(&workspace);
    let rustc = find_rustc(&recorded)?;
    let linker = find_linker(&recorded)?;
    // The nested build must not share the outer target directory: cargo would wait for itself.
    let target =
        env::var_os("CARGO_TARGET_DIR").map_or_else(|| workspace.join("target"), PathBuf::from);
    let target = workspace.join(target).join("ebpf");

    let arch = env::var("CARGO_CFG_TARGET_ARCH")?;
    let flags = [
        format!("--cfg=bpf_target_arch=\"{arch}\""),
        // Loads of 32 bits and jumps on them; the kernel floor, 6.1, has both.
        "-Ctarget-cpu=v3".into(),
        "-Cdebuginfo=2".into(),
        "-Clink-arg=--btf".into(),
    ];
    let output = Command::new(env::var("CARGO")?)
        .args([
            "build",
            "--quiet",
            "--profile",
            "ebpf",
            "--package",
            "netagent-ebpf",
            "--bins",
        ])
        .args(["--target", TARGET, "-Zbuild-std=core", "--target-dir"])
        .arg(&target)
        .current_dir(&workspace)
        .env("RUSTC", &rustc)
        .env("RUSTC_BOOTSTRAP", "1") // a stable rustc does -Zbuild-std with this
        .env("CARGO_TARGET_BPFEL_UNKNOWN_NONE_LINKER", &linker)
        .env("CARGO_ENCODED_RUSTFLAGS", flags.join("\u{1f}"))
        .env_remove("RUSTC_WORKSPACE_WRAPPER") // clippy
        .env_remove("RUSTC_WRAPPER")
        .env_remove("RUSTUP_TOOLCHAIN")
        .env_remove("LD_LIBRARY_PATH") // the outer rustc's libraries
        .output()?;
    if !output.status.success() {
        let diagnostics = String::from_utf8_lossy(&output.stderr);
        let (rustc, linker) = (rustc.display(), linker.display());
        return Err(format!(
            "{diagnostics}\nthe eBPF build failed (rustc {rustc}, linker {linker})"
        )
        .into());
    }
    let object = target.join(TARGET).join("ebpf/netagent-ebpf");
    fs::copy(
        &object,
        PathBuf::from(env::var("OUT_DIR")?).join("netagent-ebpf"),
    )?;
    Ok(())
}

/// Reads what `cargo xtask setup` recorded, and tells cargo when to run this script again.
fn read_record(workspace: &Path) -> BTreeMap<String, PathBuf> {
    for name in [
        "netagent-ebpf",
        "netagent-common",
        "Cargo.lock",
        "Cargo.toml",
    ] {
        println!("cargo::rerun-if-changed={}", workspace.join(name).display());
    }
    for name in ["NETAGENT_RUSTC", "NETAGENT_BPF_LINKER", "XDG_CACHE_HOME"] {
        println!("cargo::rerun-if-env-changed={name}");
    }
    let path = cache_dir().join("toolchain.env");
    let Ok(text) = fs::read_to_string(&path) else {
        return BTreeMap::new();
    };
    // A compiler or linker changed behind the same path is noticed because setup writes this file anew.
    println!("cargo::rerun-if-changed={}", path.display());
    text.lines()
        .filter_map(|line| line.split_once('='))
        .map(|(key, value)| (key.to_owned(), value.into()))
        .collect()
}

/// Takes the rustc of `NETAGENT_RUSTC`, of the record, of the toolchain in use or of Debian, in this order.
fn find_rustc(recorded: &BTreeMap<String, PathBuf>) -> Result<PathBuf, Box<dyn Error>> {
    let own = sysroot(Path::new(&env::var("RUSTC")?)).map(|path| path.join("bin/rustc"));
    let candidates = [
        env::var_os("NETAGENT_RUSTC").map(PathBuf::from),
        recorded.get("RUSTC").cloned(),
        own,
        Some("/usr/bin/rustc".into()),
    ];
    let has_source = |rustc: &PathBuf| {
        sysroot(rustc).is_some_and(|path| {
            path.join("lib/rustlib/src/rust/library/Cargo.lock")
                .exists()
        })
    };
    candidates
        .into_iter()
        .flatten()
        .find(has_source)
        .ok_or_else(|| {
            "no rustc with its library source was found, which the eBPF build needs".into()
        })
}

fn find_linker(recorded: &BTreeMap<String, PathBuf>) -> Result<PathBuf, Box<dyn Error>> {
    let path = env::var_os("PATH").unwrap_or_default();
    let on_path = env::split_paths(&path).map(|dir| dir.join("bpf-linker"));
    [
        env::var_os("NETAGENT_BPF_LINKER").map(PathBuf::from),
        recorded.get("LINKER").cloned(),
    ]
    .into_iter()
    .flatten()
    .chain([cache_dir().join("bpf-linker/bin/bpf-linker")])
    .chain(on_path)
    .find(|path| path.is_file())
    .ok_or_else(|| "bpf-linker was not found, which the eBPF build needs".into())
}

fn sysroot(rustc: &Path) -> Option<PathBuf> {
    let output = Command::new(rustc)
        .args(["--print", "sysroot"])
        .output()
        .ok()?;
    output
        .status
        .success()
        .then(|| PathBuf::from(String::from_utf8_lossy(&output.stdout).trim()))
}

/// `$XDG_CACHE_HOME/netagent`, else `$HOME/.cache/netagent`: as in `xtask/src/paths.rs`.
fn cache_dir() -> PathBuf {
    let home = || PathBuf::from(env::var_os("HOME").unwrap_or_default()).join(".cache");
    env::var_os("XDG_CACHE_HOME")
        .filter(|value| !value.is_empty())
        .map_or_else(home, PathBuf::from)
        .join("netagent")
}
