//! Who may ask for what (A-3, A-4).

use super::*;
use crate::config::accounts::Account;

/// Somebody on TCP, with this token or with none.
async fn remote(
    api: &Api,
    config: Config,
    token: &str,
    request: (&str, &str, &str),
) -> (u16, Value) {
    let peer = MockConnectInfo(Peer::Remote("127.0.0.1:9".parse().unwrap()));
    let router = router(api.agent.handle.0.clone(), Arc::new(config)).layer(peer);
    let (method, path, body) = request;
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header("authorization", format!("Bearer {token}"))
        .body(Body::from(body.to_owned()))
        .unwrap();
    let response = router.oneshot(request).await.unwrap();
    let status = response.status().as_u16();
    assert_eq!(
        status == 401,
        response.headers().contains_key("www-authenticate")
    );
    let bytes = response.into_body().collect().await.unwrap().to_bytes();
    (status, serde_json::from_slice(&bytes).unwrap_or_default())
}

#[tokio::test]
async fn a3_a_token_reaches_its_own_account_alone() {
    let api = api().await;
    let make = async |body: &str| api.call("POST", "/v1/tokens", body.to_owned()).await.1;
    let made = make(r#"{"account": "acme", "permissions": ["net_manager"]}"#).await;
    let plain = make(r#"{"account": "acme"}"#).await;
    let token = made["token"].as_str().unwrap();
    let ask = async |token: &str, request| remote(&api, Config::default(), token, request).await;
    let list = ("GET", "/v1/instances", "");
    for wrong in ["", "netagent_x", &token[..token.len() - 1]] {
        assert_eq!(ask(wrong, list).await.0, 401);
    }
    api.call("POST", "/v1/instances", r#"{"name": "a"}"#).await;
    assert_eq!(ask(token, list).await, (200, json!([])));
    assert_eq!(ask(token, ("GET", "/v1/instances/a", "")).await.0, 404);
    let explain = "/v1/explain?instance=a&address=192.0.2.1";
    assert_eq!(ask(token, ("GET", explain, "")).await.0, 404);
    assert_eq!(api.call("GET", explain, "").await.0, 200);
    let create = (
        "POST",
        "/v1/instances",
        r#"{"name": "a", "network_interfaces": [{}]}"#,
    );
    assert_eq!(ask(token, create).await.0, 201);
    let (status, refused) = ask(plain["token"].as_str().unwrap(), create).await;
    assert_eq!(
        (status, &refused["message"]),
        (400, &json!("Unknown member 'network_interfaces'"))
    );
    for path in ["/v1/plan", "/v1/tokens"] {
        assert_eq!(ask(token, ("GET", path, "")).await.0, 403, "{path}");
    }
    assert_eq!(ask("", ("GET", "/healthz", "")).await.0, 200);
    let (_, listed) = api.call("GET", "/v1/tokens", "").await;
    assert!(!listed.to_string().contains(token) && !listed.to_string().contains("hash"));
    let path = format!("/v1/tokens/{}", made["id"].as_str().unwrap());
    assert_eq!(api.call("DELETE", &path, "").await.0, 204);
    assert_eq!(ask(token, list).await.0, 401);
    assert_eq!(api.call("DELETE", &path, "").await.0, 404);
}

/// What the table says of a route is what its handler does.
#[tokio::test]
async fn every_route_is_open_to_exactly_those_whom_the_table_names() {
    let api = api().await;
    let made = api.call("POST", "/v1/tokens", r#"{"account": "acme"}"#);
    let token = made.await.1["token"].as_str().unwrap().to_owned();
    for Route {
        method,
        path,
        access,
        ..
    } in all()
    {
        let path = path.replace("{instance}", "b").replace("{token}", "b");
        let ask = async |token| {
            let request = (method, path.as_str(), "{}");
            remote(&api, Config::default(), token, request).await.0
        };
        let (stranger, account) = (ask("").await, ask(&token).await);
        let expected = match access {
            Access::Open => stranger == 200 && account == 200,
            Access::Account => stranger == 401 && ![401, 403].contains(&account),
            Access::Local => stranger == 401 && account == 403,
        };
        assert!(
            expected,
            "{method} {path} {access:?}: {stranger}, {account}"
        );
    }
}

#[tokio::test]
async fn a4_an_account_without_the_feature_is_told_so() {
    let api = api().await;
    let (_, made) = api
        .call(
            "POST",
            "/v1/tokens",
            r#"{"account": "acme", "permissions": ["net_manager"]}"#,
        )
        .await;
    let mut config = Config::default();
    let account = Account {
        instances: None,
        custom_network: false,
        published_ports: None,
    };
    config.accounts.insert("acme".into(), account);
    let create = ("POST", "/v1/instances", r#"{"gateway": "10.0.0.1"}"#);
    let (status, refused) = remote(&api, config, made["token"].as_str().unwrap(), create).await;
    assert_eq!(status, 403);
    assert!(
        refused["message"]
            .as_str()
            .unwrap()
            .starts_with("Insufficient license.")
    );
}
