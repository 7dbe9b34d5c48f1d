use super::*;

fn parsed(text: &str) -> Result<PolicySpec, SpecError> {
    PolicySpec::parse(
        serde_json::from_str::<Value>(text)
            .unwrap()
            .as_object()
            .unwrap(),
    )
}

fn check_error(text: &str, expected: &str) {
    assert_eq!(parsed(text).unwrap_err().to_string(), expected, "{text}");
}

fn list(networks: &[&str]) -> Option<Networks> {
    let networks = networks.iter().map(|text| text.parse().unwrap());
    Some(Arc::new(networks.collect()))
}

#[test]
fn p1_a_list_makes_the_policy_custom_and_so_does_an_empty_one() {
    let mode = |text: &str| parsed(text).unwrap().mode;
    assert_eq!(mode("{}"), PolicyMode::AllowAll);
    assert_eq!(
        mode(r#"{"network_policy": "deny-all"}"#),
        PolicyMode::DenyAll
    );
    assert_eq!(mode(r#"{"allowed_cidrs": null}"#), PolicyMode::AllowAll);
    for text in [
        r#"{"allowed_cidrs": ["10.0.0.0/8"]}"#,
        r#"{"allowed_cidrs": []}"#,
        r#"{"denied_cidrs": []}"#,
        r#"{"allowed_domains": []}"#,
        r#"{"allowed_domains": ["example.org"]}"#,
        r#"{"network_policy": "allow-all", "denied_cidrs": ["::/0"]}"#,
        r#"{"network_policy": "custom", "allowed_cidrs": []}"#,
    ] {
        assert_eq!(mode(text), PolicyMode::Custom, "{text}");
    }
}

#[test]
fn p1_deny_all_goes_with_no_list_and_custom_needs_one() {
    let combined = "Cannot combine --network-policy deny-all with --allowed-domain, --allowed-cidr, or --denied-cidr.";
    for member in LISTS {
        let text = format!(r#"{{"network_policy": "deny-all", "{member}": []}}"#);
        check_error(&text, combined);
    }
    let needs = "Network policy 'custom' needs allowed_domains, allowed_cidrs or denied_cidrs";
    check_error(r#"{"network_policy": "custom"}"#, needs);
    check_error(
        r#"{"network_policy": "custom", "denied_cidrs": null}"#,
        needs,
    );
    check_error(
        r#"{"network_policy": "Deny-All"}"#,
        "Invalid value 'Deny-All' of member 'network_policy': use allow-all, deny-all or custom",
    );
}

#[test]
fn p2_an_empty_list_is_a_list() {
    let policy = parsed(r#"{"allowed_cidrs": []}"#).unwrap();
    assert_eq!(policy.allowed_cidrs, list(&[]));
    assert_eq!(
        (&policy.allowed_domains, &policy.denied_cidrs),
        (&None, &None)
    );
    assert!(policy.denies_the_rest());
    let policy = parsed(r#"{"allowed_domains": []}"#).unwrap();
    assert_eq!(policy.allowed_domains, Some(Arc::default()));
    assert!(policy.denies_the_rest());
    let policy = parsed(r#"{"denied_cidrs": []}"#).unwrap();
    assert!(!policy.denies_the_rest());
}

#[test]
fn d2_the_lists_say_what_may_be_asked_for() {
    let check = |text: &str, expected: Permission| {
        assert_eq!(parsed(text).unwrap().permission(), expected, "{text}");
    };
    let names = |entries: &[&str]| {
        let names = entries.iter().map(|entry| Domain::parse(entry).unwrap());
        Arc::new(names.collect::<Domains>())
    };
    let one = || names(&["a.example"]);
    check("{}", Permission::All);
    check(r#"{"audit": true}"#, Permission::All);
    check(r#"{"denied_cidrs": ["10.0.0.0/8"]}"#, Permission::All);
    check(r#"{"allowed_cidrs": []}"#, Permission::None);
    check(
        r#"{"allowed_cidrs": ["::/0"], "denied_cidrs": []}"#,
        Permission::None,
    );
    check(r#"{"network_policy": "deny-all"}"#, Permission::None);
    check(
        r#"{"network_policy": "deny-all", "audit": true}"#,
        Permission::All,
    );
    check(r#"{"allowed_cidrs": [], "audit": true}"#, Permission::All);
    let domains = r#""allowed_domains": ["A.example."]"#;
    check(&format!("{{{domains}}}"), Permission::Listed(one()));
    for other in ["allowed_cidrs", "denied_cidrs"] {
        let text = format!(r#"{{{domains}, "{other}": ["::/0"]}}"#);
        check(&text, Permission::Listed(one()));
    }
    check(
        &format!(r#"{{{domains}, "audit": true}}"#),
        Permission::Audited(one()),
    );
    check(r#"{"allowed_domains": []}"#, Permission::Listed(names(&[])));
}

#[test]
fn d3_a_wrong_name_refuses_the_policy_and_is_named() {
    check_error(
        r#"{"allowed_domains": ["example.org", "a..example"]}"#,
        "Invalid domain: \"a..example\": a label is empty. Expected a name like api.example.com, or *.example.com for all names below it",
    );
    check_error(
        r#"{"allowed_domains": [7]}"#,
        "Member 'allowed_domains' must be a list of texts",
    );
}

#[test]
fn both_families_duplicates_and_overlaps_are_one_list() {
    let policy = parsed(
        r#"{"allowed_cidrs": ["10.1.2.3/8", "10.0.0.0/8", "10.9.0.0/16", "2001:db8::1/32"], "audit": true}"#,
    );
    let policy = policy.unwrap();
    let expected = list(&["10.0.0.0/8", "10.9.0.0/16", "2001:db8::/32"]);
    assert_eq!(policy.allowed_cidrs, expected);
    assert!(policy.audit);
}

#[test]
fn p10_a_wrong_entry_refuses_the_policy_in_the_words_of_the_specification() {
    check_error(
        r#"{"allowed_cidrs": ["10.0.0.0/8", "0.0.0.0"]}"#,
        "Invalid CIDR format: \"0.0.0.0\". Expected format: x.x.x.x/y",
    );
    check_error(
        r#"{"denied_cidrs": ["::"]}"#,
        "Invalid CIDR format: \"::\". Expected format: x.x.x.x/y",
    );
    check_error(
        r#"{"denied_cidrs": ["10.0.0.0/33"]}"#,
        "Invalid CIDR prefix length: 33",
    );
    check_error(
        r#"{"allowed_cidrs": ["2001:db8::/129"]}"#,
        "Invalid CIDR prefix length: 129",
    );
}

#[test]
fn a_list_of_other_things_and_a_list_over_its_bound_are_refused_by_member() {
    let text = "Member 'denied_cidrs' must be a list of texts";
    check_error(r#"{"denied_cidrs": [7]}"#, text);
    check_error(r#"{"denied_cidrs": "10.0.0.0/8"}"#, text);
    check_error(r#"{"colour": 1}"#, "Unknown member 'colour'");
    for (member, entry) in [
        ("allowed_cidrs", "10.0.0.0/8"),
        ("allowed_domains", "example.org"),
    ] {
        let many = |count: usize| {
            let entries = vec![entry; count];
            parsed(&json!({ member: entries }).to_string())
        };
        assert!(many(POLICY_ENTRIES_MAX).is_ok());
        assert_eq!(
            many(POLICY_ENTRIES_MAX + 1).unwrap_err().to_string(),
            format!("Member '{member}' has 100001 entries, and may have 100000")
        );
    }
}

#[test]
fn of_very_many_wrong_entries_some_are_named() {
    for member in LISTS {
        let object = json!({ member: vec!["/"; 1_000] });
        let mut faults = Vec::new();
        PolicySpec::read(object.as_object().unwrap(), &mut faults);
        assert_eq!(faults.len(), FAULTS_MAX, "{member}");
    }
}

#[test]
fn its_members_say_the_same_again() {
    for text in [
        "{}",
        r#"{"network_policy":"deny-all"}"#,
        r#"{"network_policy":"custom","allowed_cidrs":[]}"#,
        r#"{"network_policy":"custom","allowed_domains":[]}"#,
        r#"{"network_policy":"custom","allowed_domains":["a.example","xn--bcher-kva.example","*.a.example"],"allowed_cidrs":["10.0.0.0/8"]}"#,
        r#"{"network_policy":"custom","allowed_cidrs":["10.0.0.0/8","::/0"],"denied_cidrs":[],"audit":true}"#,
    ] {
        let members = parsed(text).unwrap().members();
        assert_eq!(Value::Object(members).to_string(), text);
    }
}
