//! The OpenAPI document says what the routes do.

use std::collections::BTreeSet;

use super::*;

#[tokio::test]
async fn every_route_is_in_the_document_and_every_path_of_the_document_is_a_route() {
    let api = api().await;
    api.call("POST", "/v1/instances", r#"{"name": "a"}"#).await;
    let (status, document) = api.call("GET", "/openapi.json", "").await;
    assert_eq!(status, 200);
    let described: BTreeSet<(String, String)> = document["paths"]
        .as_object()
        .unwrap()
        .iter()
        .flat_map(|(path, methods)| {
            let methods = methods.as_object().unwrap().keys();
            methods.map(move |method| (method.to_uppercase(), path.clone()))
        })
        .collect();
    let routes: BTreeSet<(String, String)> = all()
        .into_iter()
        .map(|route| (route.method.to_owned(), route.path))
        .collect();
    assert_eq!(described, routes);
    for (method, path) in described.iter().filter(|(method, _)| method != "DELETE") {
        let path = path.replace("{instance}", "a");
        let (status, answer) = api.call(method, &path, "{}").await;
        let message = answer["message"].as_str().unwrap_or_default();
        assert!(
            status != 405 && !message.starts_with("Unknown route"),
            "{method} {path}: {answer}"
        );
    }
}

#[tokio::test]
async fn the_document_describes_exactly_the_members_that_a_request_may_have() {
    let (_, document) = api().await.call("GET", "/openapi.json", "").await;
    let request = &document["components"]["schemas"]["InstanceRequest"];
    let (instance, interface) = crate::spec::member_names();
    let names = |schema: &Value| -> BTreeSet<String> {
        let properties = schema["properties"].as_object().unwrap();
        properties.keys().cloned().collect()
    };
    let expected = |names: Vec<&str>| names.into_iter().map(str::to_owned).collect();
    assert_eq!(names(request), expected(instance));
    let entry = &request["properties"]["network_interfaces"]["items"];
    assert_eq!(names(entry), expected(interface));
    assert_eq!(request["additionalProperties"], false);
}

#[tokio::test]
async fn the_document_names_the_body_of_every_request_that_has_one() {
    let (_, document) = api().await.call("GET", "/openapi.json", "").await;
    let of = |method: &str, path: &str| {
        let body = &document["paths"][path][method]["requestBody"];
        let reference = body["content"]["application/json"]["schema"]["$ref"].as_str();
        let name = reference.and_then(|reference| reference.rsplit('/').next())?;
        let schema = &document["components"]["schemas"][name]["properties"];
        let members: Vec<String> = schema.as_object().unwrap().keys().cloned().collect();
        Some(members)
    };
    let expected = |members: &[&str]| {
        let members: BTreeSet<String> = members.iter().map(|name| (*name).to_owned()).collect();
        members
    };
    for prefix in ["/v1/instances", "/machines"] {
        for (rest, members) in [
            ("policy", &changes::POLICY[..]),
            ("publish", &changes::PUBLISH),
            ("limits", &changes::LIMITS),
            ("announcements", &changes::ANNOUNCEMENT),
        ] {
            let path = format!("{prefix}/{{instance}}/{rest}");
            let found = of("put", &path).unwrap().into_iter().collect();
            assert_eq!(expected(members), found, "{path}");
        }
        assert!(of("post", prefix).is_some());
        assert_eq!(of("put", &format!("{prefix}/{{instance}}/start")), None);
    }
    let tokens = of("post", "/v1/tokens").unwrap().into_iter().collect();
    assert_eq!(expected(&tokens::MEMBERS), tokens);
    let check = &document["paths"]["/v1/instances"]["post"]["parameters"][0];
    assert_eq!(
        (&check["name"], &check["in"]),
        (&json!("check"), &json!("query"))
    );
}
