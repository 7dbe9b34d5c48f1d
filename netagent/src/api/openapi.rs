//! The OpenAPI document: paths from the table of routes, the create request from the table of members, answers from
//! the types that are serialised.

use axum::Json;
use utoipa::openapi::path::{
    HttpMethod, OperationBuilder, Parameter, ParameterBuilder, ParameterIn,
};
use utoipa::openapi::request_body::RequestBodyBuilder;
use utoipa::openapi::schema::{
    AdditionalProperties, ArrayBuilder, ObjectBuilder, OneOfBuilder, Schema, Type,
};
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityRequirement, SecurityScheme};
use utoipa::openapi::{
    ComponentsBuilder, Content, ContentBuilder, InfoBuilder, OpenApi, OpenApiBuilder, PathItem,
    PathsBuilder, Ref, RefOr, Required, ResponseBuilder,
};
use utoipa::{PartialSchema, ToSchema};

use crate::api::changes;
use crate::api::explain::{self, ExplainBody};
use crate::api::routes::{Access, Route, all};
use crate::api::tokens::{self, TokenView};
use crate::api::views::{InstanceView, PlanBody};
use crate::guest::format::Format;
use crate::spec::{Described, Kind, described_request};

/// A flag and what it means.
const CHECK: (&str, &str) = (
    "check",
    "true: answer 200 with {\"faults\": [...]}, everything that is wrong, and create nothing",
);
const FORCE: (&str, &str) = (
    "force",
    "true: delete it even if other instances have it as their relay",
);
const TOKEN: &str = "token";
const JSON: &str = "application/json";

/// `GET /openapi.json`
pub(crate) async fn serve() -> Json<OpenApi> {
    Json(document())
}

/// The document.
#[must_use]
pub(crate) fn document() -> OpenApi {
    let mut paths = PathsBuilder::new();
    for route in all() {
        let item = PathItem::new(method(route.method), operation(&route));
        paths = paths.path(route.path.clone(), item);
    }
    let mut schemas = Vec::new();
    InstanceView::schemas(&mut schemas);
    PlanBody::schemas(&mut schemas);
    ExplainBody::schemas(&mut schemas);
    let components = ComponentsBuilder::new()
        .schemas_from_iter(schemas)
        .schema("InstanceView", InstanceView::schema())
        .schema("PlanBody", PlanBody::schema())
        .schema("ExplainBody", ExplainBody::schema())
        .schema("TokenView", TokenView::schema())
        .schemas_from_iter(requests())
        .schema("Error", error())
        .security_scheme(
            TOKEN,
            SecurityScheme::Http(HttpBuilder::new().scheme(HttpAuthScheme::Bearer).build()),
        )
        .build();
    let info = InfoBuilder::new()
        .title("netagent")
        .version(env!("CARGO_PKG_VERSION"))
        .description(Some("The network agent of microVM hosts"))
        .build();
    OpenApiBuilder::new()
        .info(info)
        .paths(paths.build())
        .components(Some(components))
        .build()
}

fn method(name: &str) -> HttpMethod {
    match name {
        "POST" => HttpMethod::Post,
        "PUT" => HttpMethod::Put,
        "PATCH" => HttpMethod::Patch,
        "DELETE" => HttpMethod::Delete,
        _ => HttpMethod::Get,
    }
}

fn operation(route: &Route) -> OperationBuilder {
    let mut operation = OperationBuilder::new().summary(Some(route.summary));
    for name in route.path.split('/').filter_map(parameter_name) {
        operation = operation.parameter(parameter(name));
    }
    if route.access == Access::Account {
        let none: [&str; 0] = [];
        operation = operation.security(SecurityRequirement::new(TOKEN, none));
    }
    if takes_check(route) {
        operation = operation.parameter(flag(CHECK));
    }
    if is_guest(route) {
        operation = operation.parameter(format());
    }
    if route.method == "DELETE" && route.path.ends_with("/{instance}") {
        operation = operation.parameter(flag(FORCE));
    }
    if route.path == "/v1/explain" {
        for (name, description, required) in explain::PARAMETERS {
            operation = operation.parameter(question(name, description, required));
        }
    }
    if let Some(name) = request(route) {
        let body = RequestBodyBuilder::new()
            .content(JSON, content(Some(name)))
            .required(Some(Required::True))
            .build();
        operation = operation.request_body(Some(body));
    }
    let failed = response("Refused, failed or not built yet", Some("Error"));
    operation
        .response("2XX", done(route))
        .response("default", failed)
}

/// What requests hold, by the name under which the routes refer to it.
fn requests() -> Vec<(&'static str, Schema)> {
    let instance = described_request();
    let part = |members: &[&str]| {
        let chosen = instance
            .iter()
            .filter(|member| members.contains(&member.name));
        object(&chosen.cloned().collect::<Vec<_>>())
    };
    let own = |members: &[&'static str], kinds: &[Kind]| {
        let pairs = members.iter().zip(kinds);
        let described: Vec<Described> = pairs
            .map(|(name, kind)| Described {
                name,
                kind: kind.clone(),
            })
            .collect();
        object(&described)
    };
    let texts = Kind::List(Box::new(Kind::Text));
    vec![
        ("InstanceRequest", object(&instance)),
        ("PolicyRequest", part(&changes::POLICY)),
        ("PublishRequest", part(&changes::PUBLISH)),
        ("LimitsRequest", part(&changes::LIMITS)),
        (
            "AnnouncementRequest",
            own(
                &changes::ANNOUNCEMENT,
                &[Kind::Text, Kind::Number, Kind::Text],
            ),
        ),
        ("TokenRequest", own(&tokens::MEMBERS, &[Kind::Text, texts])),
    ]
}

/// The type of what a route reads, where it reads a body.
fn request(route: &Route) -> Option<&'static str> {
    let last = route.path.rsplit('/').next();
    match (route.method, last?) {
        ("POST", "instances" | "machines") => Some("InstanceRequest"),
        ("POST", "tokens") => Some("TokenRequest"),
        ("PUT", "policy") => Some("PolicyRequest"),
        ("PUT", "publish") => Some("PublishRequest"),
        ("PUT", "limits") => Some("LimitsRequest"),
        ("PUT", "announcements") => Some("AnnouncementRequest"),
        _ => None,
    }
}

/// `POST /machines` answers as its guide says and knows no parameter.
fn takes_check(route: &Route) -> bool {
    (route.method, route.path.as_str()) == ("POST", "/v1/instances")
}

fn flag((name, description): (&str, &str)) -> Parameter {
    ParameterBuilder::new()
        .name(name)
        .description(Some(description))
        .parameter_in(ParameterIn::Query)
        .required(Required::False)
        .schema(Some(ObjectBuilder::new().schema_type(Type::Boolean)))
        .build()
}

fn question(name: &str, description: &str, required: bool) -> Parameter {
    let text = ObjectBuilder::new().schema_type(Type::String);
    ParameterBuilder::new()
        .name(name)
        .description(Some(description))
        .parameter_in(ParameterIn::Query)
        .required(if required {
            Required::True
        } else {
            Required::False
        })
        .schema(Some(text))
        .build()
}

fn is_guest(route: &Route) -> bool {
    route.path.ends_with("/guest")
}

fn format() -> Parameter {
    let names = Format::ALL.map(Format::name);
    ParameterBuilder::new()
        .name("format")
        .description(Some("Form of the answer"))
        .parameter_in(ParameterIn::Query)
        .required(Required::False)
        .schema(Some(
            ObjectBuilder::new()
                .schema_type(Type::String)
                .enum_values(Some(names))
                .default(Some(Format::default().name().into())),
        ))
        .build()
}

/// The configuration of a guest is of the type that its format has; everything else is JSON.
fn done(route: &Route) -> ResponseBuilder {
    let done = response("Done", answer(route));
    if !is_guest(route) {
        return done;
    }
    let text =
        || ContentBuilder::new().schema(Some(ObjectBuilder::new().schema_type(Type::String)));
    Format::ALL.into_iter().fold(done, |done, format| {
        // Without the parameter behind the type.
        let kind = format.content_type().split(';').next().unwrap_or_default();
        let content = if kind == JSON {
            content(None)
        } else {
            text().build()
        };
        done.content(kind, content)
    })
}

/// The type of what a route answers, where it has a name.
fn answer(route: &Route) -> Option<&'static str> {
    let instance = route.path.ends_with("/start")
        || route.path.ends_with("/stop")
        || route.path.ends_with("/publish")
        || route.path.ends_with("/policy")
        || route.path.ends_with("/limits")
        || (route.method == "GET" && route.path.ends_with("/{instance}"))
        || (route.method == "POST"
            && ["/v1/instances", "/machines"].contains(&route.path.as_str()));
    match (route.method, route.path.as_str()) {
        ("GET", "/v1/plan") => Some("PlanBody"),
        ("GET", "/v1/explain") => Some("ExplainBody"),
        ("POST", "/v1/tokens") => Some("TokenView"),
        _ if instance => Some("InstanceView"),
        _ => None,
    }
}

fn response(description: &str, schema: Option<&str>) -> ResponseBuilder {
    let response = ResponseBuilder::new().description(description);
    match schema {
        None => response,
        Some(_) => response.content(JSON, content(schema)),
    }
}

fn content(schema: Option<&str>) -> Content {
    let named = |name| RefOr::Ref(Ref::from_schema_name(name));
    ContentBuilder::new().schema(schema.map(named)).build()
}

fn parameter_name(part: &str) -> Option<&str> {
    part.strip_prefix('{')?.strip_suffix('}')
}

fn parameter(name: &str) -> Parameter {
    ParameterBuilder::new()
        .name(name)
        .parameter_in(ParameterIn::Path)
        .required(Required::True)
        .schema(Some(ObjectBuilder::new().schema_type(Type::String)))
        .build()
}

fn error() -> Schema {
    let text = || ObjectBuilder::new().schema_type(Type::String);
    ObjectBuilder::new()
        .property("status", text())
        .property("message", text())
        .into()
}

fn object(members: &[Described]) -> Schema {
    let mut object = ObjectBuilder::new()
        .additional_properties(Some(AdditionalProperties::<Schema>::FreeForm(false)));
    for member in members {
        object = object.property(member.name, schema(&member.kind));
    }
    object.into()
}

fn schema(kind: &Kind) -> RefOr<Schema> {
    let plain = |kind| ObjectBuilder::new().schema_type(kind);
    match kind {
        Kind::Text => plain(Type::String).into(),
        Kind::Word(words) => plain(Type::String)
            .enum_values(Some(words.iter().copied()))
            .into(),
        Kind::Number => plain(Type::Integer).into(),
        Kind::Boolean => plain(Type::Boolean).into(),
        Kind::Any => ObjectBuilder::new().into(),
        Kind::Object(members) => RefOr::T(object(members)),
        Kind::List(inner) => ArrayBuilder::new().items(schema(inner)).into(),
        Kind::OneOf(kinds) => {
            let one_of = kinds.iter().map(schema);
            one_of.fold(OneOfBuilder::new(), OneOfBuilder::item).into()
        }
    }
}
