//! What stands under `/proc/sys/net/<family>/conf/<tap>/` before a TAP is up (design, decision 5): it is netagent
//! that forwards, never the host, even where the host forwards everything else.

use std::collections::BTreeMap;
use std::fs;
use std::io;

use rtnetlink::packet_route::link::{
    AfSpecInet, AfSpecInet6, AfSpecUnspec, In6AddrGenMode, Inet6DevConf, InetDevConf,
};

/// Where the settings of the network lie.
const ROOT: &str = "/proc/sys/net";

/// Family, setting, value. [`hold`] looks for the same. Whoever writes `ip_forward` or `all/forwarding` sets
/// these on every device of the host.
const SETTINGS: [(&str, &str, &str); 8] = [
    ("ipv4", "forwarding", "0"),
    // Not 0: the kernel takes the higher of this and `all`, and strict filtering refuses guests' answers.
    ("ipv4", "rp_filter", "2"),
    ("ipv4", "accept_redirects", "0"),
    ("ipv4", "send_redirects", "0"),
    ("ipv4", "proxy_arp", "0"),
    ("ipv6", "accept_ra", "0"),
    // 1 is "none": no link-local address but the one that the agent sets.
    ("ipv6", "addr_gen_mode", "1"),
    ("ipv6", "forwarding", "0"),
];

/// A setting that cannot be written.
#[derive(Debug, thiserror::Error)]
#[error("write {path}")]
pub struct SettingError {
    /// The file.
    path: String,
    /// Why.
    #[source]
    source: io::Error,
}

/// Writes the settings of a TAP; with `v6`, switches IPv6 on first, which a host may have off by default.
///
/// # Errors
/// Where one cannot be written.
pub fn write(tap: &str, v6: bool) -> Result<(), SettingError> {
    if v6 {
        write_one("ipv6", tap, "disable_ipv6", "0")?;
    }
    for (family, setting, value) in SETTINGS {
        write_one(family, tap, setting, value)?;
    }
    Ok(())
}

/// What stands there now, by path below `/proc/sys/net`; a family that the host has not is left out.
#[must_use]
pub fn read(tap: &str) -> BTreeMap<String, String> {
    let settings = SETTINGS.iter().map(|(family, name, _)| (*family, *name));
    let all = settings.chain([("ipv6", "disable_ipv6")]);
    all.filter_map(|(family, name)| {
        let path = format!("{family}/conf/{tap}/{name}");
        let value = fs::read_to_string(format!("{ROOT}/{path}")).ok()?;
        Some((path, value.trim().to_owned()))
    })
    .collect()
}

/// Puts back what [`read`] found.
///
/// # Errors
/// Where one cannot be written.
pub fn restore(settings: &BTreeMap<String, String>) -> Result<(), SettingError> {
    for (path, value) in settings {
        let path = format!("{ROOT}/{path}");
        // A link that is gone needs nothing, and the kernel has settings that only it may set.
        match fs::write(&path, value) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                return Err(SettingError { path, source });
            }
            Err(_) | Ok(()) => {}
        }
    }
    Ok(())
}

/// Takes IPv6 off a link that is to have no address of it, not even a link-local one.
///
/// # Errors
/// Where it cannot be written.
pub fn switch_off_v6(link: &str) -> Result<(), SettingError> {
    write_one("ipv6", link, "disable_ipv6", "1")
}

fn write_one(family: &str, tap: &str, setting: &str, value: &str) -> Result<(), SettingError> {
    let path = format!("{ROOT}/{family}/conf/{tap}/{setting}");
    match fs::write(&path, value) {
        // A host without IPv6 has nothing to close.
        Err(source) if family == "ipv6" && source.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(source) => Err(SettingError { path, source }),
        Ok(()) => Ok(()),
    }
}

/// Whether the settings hold, by what netlink says of a link: no file is read. A family that the link has not
/// needs none.
#[must_use]
pub fn hold(families: &[AfSpecUnspec]) -> bool {
    families.iter().all(|family| {
        if let AfSpecUnspec::Inet(settings) = family {
            settings.iter().all(hold_v4)
        } else if let AfSpecUnspec::Inet6(settings) = family {
            settings.iter().all(hold_v6)
        } else {
            true
        }
    })
}

fn hold_v4(settings: &AfSpecInet) -> bool {
    let AfSpecInet::DevConf(InetDevConf {
        forwarding: 0,
        rp_filter: 2,
        accept_redirects: 0,
        send_redirects: 0,
        proxy_arp: 0,
        ..
    }) = settings
    else {
        return !matches!(settings, AfSpecInet::DevConf(_));
    };
    true
}

fn hold_v6(settings: &AfSpecInet6) -> bool {
    if let AfSpecInet6::DevConf(Inet6DevConf {
        accept_ra,
        forwarding,
        ..
    }) = settings
    {
        (*accept_ra, *forwarding) == (0, 0)
    } else if let AfSpecInet6::AddrGenMode(mode) = settings {
        *mode == In6AddrGenMode::None
    } else {
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn closed() -> InetDevConf {
        let mut conf = InetDevConf::default();
        conf.rp_filter = 2;
        conf
    }

    fn check(v4: InetDevConf, v6: Inet6DevConf, mode: In6AddrGenMode, expected: bool) {
        let families = [
            AfSpecUnspec::Inet(vec![AfSpecInet::DevConf(v4)]),
            AfSpecUnspec::Inet6(vec![
                AfSpecInet6::DevConf(v6),
                AfSpecInet6::AddrGenMode(mode),
            ]),
        ];
        assert_eq!(hold(&families), expected);
    }

    #[test]
    fn every_setting_is_looked_at() {
        let (none, v6) = (In6AddrGenMode::None, Inet6DevConf::default());
        check(closed(), v6, none, true);
        let edits: [fn(&mut InetDevConf); 5] = [
            |conf| conf.forwarding = 1,
            |conf| conf.rp_filter = 1,
            |conf| conf.accept_redirects = 1,
            |conf| conf.send_redirects = 1,
            |conf| conf.proxy_arp = 1,
        ];
        for edit in edits {
            let mut conf = closed();
            edit(&mut conf);
            check(conf, v6, none, false);
        }
        let edits: [fn(&mut Inet6DevConf); 2] =
            [|conf| conf.forwarding = 1, |conf| conf.accept_ra = 1];
        for edit in edits {
            let mut conf = v6;
            edit(&mut conf);
            check(closed(), conf, none, false);
        }
        check(closed(), v6, In6AddrGenMode::Eui64, false);
    }

    #[test]
    fn a_link_without_ipv6_needs_nothing_of_it() {
        assert!(hold(&[AfSpecUnspec::Inet(vec![AfSpecInet::DevConf(
            closed()
        )])]));
        assert!(hold(&[]));
    }
}
