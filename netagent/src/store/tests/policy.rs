use super::*;

fn policy(text: &str) -> PolicySpec {
    PolicySpec::parse(&serde_json::from_str(text).unwrap()).unwrap()
}

fn limits(text: &str) -> LimitsSpec {
    LimitsSpec::parse(&serde_json::from_str(text).unwrap()).unwrap()
}

#[test]
fn policy_and_limits_come_back_as_they_were() {
    let scratch = scratch();
    let mut store = Store::open(&scratch.path).unwrap();
    let mut made = instance("a", &[0]);
    made.policy = policy(
        r#"{"allowed_domains": ["a.example", "*.A.example", "bücher.example"], "allowed_cidrs": ["10.0.0.0/8", "::/0"],
            "denied_cidrs": [], "audit": true}"#,
    );
    made.limits = limits(r#"{"bandwidth": "1.5mbit", "limits": {"pps": 7, "flows": 8}}"#);
    let other = instance("b", &[1]);
    store.commit(&[insert(&made), insert(&other)]).unwrap();
    assert_eq!(
        store.load().unwrap().instances,
        [made.clone(), other.clone()]
    );
    made.policy = policy(r#"{"allowed_domains": []}"#);
    made.policy_generation = 2;
    let replaced = Change::Policy(Box::new(made.clone()));
    made.limits = limits(r#"{"bandwidth_in": 3}"#);
    let limited = Change::Limits(Box::new(made.clone()));
    store.commit(&[replaced, limited]).unwrap();
    drop(store);
    let store = Store::open(&scratch.path).unwrap();
    assert_eq!(store.load().unwrap().instances, [made, other]);
}

#[test]
fn a_policy_that_cannot_be_one_is_damage_and_no_policy() {
    let check = |column: &str, text: &str, expected: &str| {
        let scratch = scratch();
        let mut store = Store::open(&scratch.path).unwrap();
        store.commit(&[insert(&instance("a", &[0]))]).unwrap();
        let spoil = format!("UPDATE instances SET {column} = ?1");
        store.connection.execute(&spoil, [text]).unwrap();
        let error = store.load().unwrap_err();
        assert!(matches!(error, StoreError::Damaged { .. }), "{error}");
        assert!(error.to_string().contains(expected), "{error}");
    };
    check(
        "policy",
        r#"{"allowed_cidrs": ["x"]}"#,
        "Invalid CIDR format",
    );
    check("policy", r#"{"allowed_domains": ["*"]}"#, "Invalid domain");
    check("policy", r#"{"network_policy": "custom"}"#, "needs");
    check("policy", "[]", "policy is '[]");
    check("limits", r#"{"bandwidth": "x"}"#, "Invalid value 'x'");
    let scratch = scratch();
    let mut store = Store::open(&scratch.path).unwrap();
    store.commit(&[insert(&instance("a", &[0]))]).unwrap();
    let spoil = "UPDATE instances SET policy = 'x'";
    assert!(store.connection.execute(spoil, []).is_err());
}
