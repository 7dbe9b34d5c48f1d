use super::*;

const EXAMPLE: &str = include_str!("../../netagent.example.toml");

fn parse(text: &str) -> Result<Config, ConfigError> {
    let config = Config::parse(text, Path::new("x.toml"))?;
    config.check()?;
    Ok(config)
}

fn check_refused(text: &str, expected: &str) {
    let error = parse(text).expect_err(text).to_string();
    assert!(error.contains(expected), "{error}");
    assert!(!error.contains('\n'), "{error}");
}

#[test]
fn the_example_holds_the_defaults() {
    assert_eq!(parse(EXAMPLE).unwrap(), Config::default());
}

#[test]
fn the_example_names_every_key() {
    // Keys without a default are commented out: with the comment taken off they must be accepted.
    let keys = EXAMPLE
        .lines()
        .map(|line| line.strip_prefix("#: ").unwrap_or(line));
    let text: Vec<&str> = keys.collect();
    let config = parse(&text.join("\n")).unwrap();
    assert!(!config.uplink.is_empty() && config.pool.subnet6.is_some());
    let api = &config.api;
    assert!(api.listen.is_some() && api.tls_cert.is_some() && api.tls_key.is_some());
    assert!(config.modes.taps.is_some());
    assert!(config.policy.quarantine_pps.is_some());
    assert_eq!(config.dns.upstream.len(), 3);
    let account = config.accounts["acme"];
    assert!(account.instances.is_some());
}

#[test]
fn an_unknown_key_is_named_with_its_line() {
    check_refused("\nbogus = 1", "x.toml line 2: unknown field `bogus`");
    check_refused("[pool]\nsubnets = 1", "unknown field `subnets`");
}

#[test]
fn a_bad_value_says_how_to_mend_it() {
    check_refused("[pool]\nsubnet = \"172.16.0.1/16\"", "write 172.16.0.0/16");
    check_refused("[pool]\nsubnet = \"10.0.0.0/8\"", "from /14 to /30");
    check_refused("[pool]\nsubnet6 = \"fd00::/64\"", "must be a /48");
    check_refused("[pool]\ntap_prefix = \"tap0\"", "must not end in a digit");
    check_refused("[nat]\nports = \"9\"", "'9' is no port range");
    check_refused("[nat]\nports = \"9-8\"", "no port range");
    check_refused("[nat]\nfiltering = \"none\"", "unknown variant `none`");
    check_refused("[nat]\neim_ports = 65536", "x.toml line 2: ");
    for seconds in ["0", "65536"] {
        let text = format!("[nat.timeouts]\ntcp_closing = {seconds}");
        let expected =
            format!("nat.timeouts.tcp_closing: {seconds} must be from 1 to 65535 seconds");
        check_refused(&text, &expected);
    }
    check_refused("[nat.timeouts]\ntcp = 1", "unknown field `tcp`");
    check_refused("[dns]\nupstream = [\"ns1\"]", "'ns1' is no address");
    check_refused("[limits]\ninstances = 0", "from 1 to 65536");
    check_refused("[datapath]\nattach = \"xdp\"", "unknown variant `xdp`");
}

#[test]
fn timeouts_reach_the_programs_as_they_are_written() {
    let keys = [
        "tcp_established",
        "tcp_transitory",
        "tcp_closing",
        "udp",
        "udp_unreplied",
        "icmp",
    ];
    let lines = keys
        .iter()
        .zip(11..)
        .map(|(key, value)| format!("{key} = {value}\n"));
    let text = format!("[nat.timeouts]\n{}", lines.collect::<String>());
    let seconds = parse(&text).unwrap().nat.timeouts.seconds();
    let expected = netagent_common::timeouts::Timeouts {
        tcp_established: 11,
        tcp_transitory: 12,
        tcp_closing: 13,
        udp: 14,
        udp_unreplied: 15,
        icmp: 16,
    };
    assert_eq!(seconds, expected);
}

#[test]
fn off_loopback_tls_is_demanded() {
    for open in ["0.0.0.0:1", "192.0.2.1:1", "[::]:1", "[::ffff:127.0.0.1]:1"] {
        let text = format!("[api]\nlisten = \"{open}\"");
        check_refused(&text, "name api.tls_cert and api.tls_key");
        let secured = format!("{text}\ntls_cert = \"c\"\ntls_key = \"k\"");
        assert!(parse(&secured).is_ok(), "{open}");
    }
    for loopback in ["127.0.0.1:1", "127.9.9.9:1", "[::1]:1"] {
        let text = format!("[api]\nlisten = \"{loopback}\"");
        assert!(parse(&text).is_ok(), "{loopback}");
        check_refused(
            &format!("{text}\ntls_cert = \"c\""),
            "goes together with api.tls_key",
        );
        check_refused(
            &format!("{text}\ntls_key = \"k\""),
            "goes together with api.tls_key",
        );
    }
    check_refused("[api]\nlisten = \"localhost\"", "x.toml line 2: ");
}

#[test]
fn accounts_and_custom_networks_are_checked() {
    check_refused(
        "[accounts.\"No Name\"]",
        "'No Name' is no name of an account",
    );
    check_refused("[accounts.a]\ninstance = 1", "unknown field `instance`");
    check_refused("[custom]\nsubnets = [\"10.0.0.1/8\"]", "host bits");
    check_refused("[modes]\ntap = []", "unknown field `tap`");
    let config = parse("[accounts.a]\ninstances = 2").unwrap();
    let account = |name| config.account(&AccountName::parse(name).unwrap());
    assert_eq!(account("a").instances, Some(2));
    assert!(account("a").custom_network);
    assert_eq!(account("b"), Account::default());
}

#[test]
fn an_uplink_is_one_name_or_a_list_of_them() {
    let check = |value: &str, expected: &[&str]| {
        let config = parse(&format!("uplink = {value}")).unwrap();
        assert_eq!(config.uplink, expected, "{value}");
    };
    check("\"eth0\"", &["eth0"]);
    check("[\"eth0\", \"bond1\"]", &["eth0", "bond1"]);
    check("[]", &[]);
    check_refused("uplink = \"\"", "is empty: name an interface");
    check_refused("uplink = [\"eth0\", \"\"]", "is empty: name an interface");
    check_refused("uplink = 7", "the name of an interface, or a list of names");
    check_refused("uplink = [7]", "x.toml line 1: ");
}

#[test]
fn flags_win_over_the_file() {
    let mut config = parse("state_dir = \"/a\"\nuplink = \"eth0\"").unwrap();
    let overrides = Overrides {
        state_dir: Some("/b".into()),
        uplink: vec!["eth1".into(), "eth2".into()],
        ..Overrides::default()
    };
    config.apply(&overrides);
    assert_eq!(config.state_dir, Path::new("/b"));
    assert_eq!(config.uplink, ["eth1", "eth2"]);
    assert_eq!(config.bpf_dir, Path::new("/sys/fs/bpf/netagent"));
}

#[test]
fn a_named_file_that_is_missing_is_an_error() {
    let overrides = Overrides {
        config: Some("/nonexistent/x.toml".into()),
        ..Overrides::default()
    };
    let error = Config::load(&overrides).unwrap_err().to_string();
    assert!(
        error.starts_with("cannot read /nonexistent/x.toml: "),
        "{error}"
    );
}
