//! Which members a request may have, of which type, and which of them are built (I-1, I-3).
//!
//! A member that moves from "not supported yet" to built changes one line here.

use serde_json::{Map, Value};

use crate::spec::SpecError;
use crate::spec::policy::PolicyMode;

type Object = Map<String, Value>;

/// One member of an object.
pub(crate) struct Member {
    name: &'static str,
    shape: Shape,
    built: Built,
}

/// Type of a value.
enum Shape {
    Text,
    /// One of these texts; another one is refused by who reads it.
    Word(&'static [&'static str]),
    Number,
    Boolean,
    NumberOrText,
    Texts,
    NumbersOrTexts,
    /// A list of texts or of objects with these members.
    TextsOrObjects(&'static [Member]),
    Object(&'static [Member]),
    Objects(&'static [Member]),
    /// An object with any members.
    AnyObject,
    Any,
}

/// Whether a member has an effect yet.
enum Built {
    Now,
    /// Only its default is accepted: absent or null.
    NotYet,
    /// Only its default is accepted: absent, null, or an empty list or object.
    NotYetUnlessEmpty,
    /// Only its default is accepted: absent, null, or this text.
    NotYetUnlessText(&'static str),
    /// Only its default is accepted: absent, null, or this.
    NotYetUnless(bool),
}

const fn member(name: &'static str, shape: Shape, built: Built) -> Member {
    Member { name, shape, built }
}

use Built::{NotYet, NotYetUnless, NotYetUnlessEmpty, NotYetUnlessText, Now};
use Shape::{
    Any, AnyObject, Boolean, Number, NumberOrText, NumbersOrTexts, Object as ObjectOf, Objects,
    Text, Texts, TextsOrObjects, Word,
};

/// The members of an instance.
pub(crate) const INSTANCE: &[Member] = &[
    member("name", Text, Now),
    member("network_interfaces", Objects(INTERFACE), Now),
    member("gateway", Text, Now),
    member("nameserver", Text, Now),
    member("exposed_ports", NumbersOrTexts, Now),
    member("publish", TextsOrObjects(PUBLISH), Now),
    member("network_policy", Word(&PolicyMode::WORDS), Now),
    member("allowed_domains", Texts, Now),
    member("allowed_cidrs", Texts, Now),
    member("denied_cidrs", Texts, Now),
    member("bandwidth", NumberOrText, Now),
    member("bandwidth_in", NumberOrText, Now),
    member("limits", ObjectOf(LIMITS), Now),
    member("audit", Boolean, Now),
    member("snat_address", Text, Now),
    member("mtu", Number, Now),
    member("autostart", Boolean, Now),
    member("annotations", AnyObject, NotYetUnlessEmpty),
    member("image", Any, Now),
    member("vcpu_count", Any, Now),
    member("mem_size_mib", Any, Now),
    member("kernel_image_path", Any, Now),
    member("rootfs_path", Any, Now),
    member("tags", Any, Now),
];

/// Those that describe the VM: stored and returned, not read.
pub const MACHINE: [&str; 6] = [
    "image",
    "vcpu_count",
    "mem_size_mib",
    "kernel_image_path",
    "rootfs_path",
    "tags",
];

const INTERFACE: &[Member] = &[
    member("name", Text, Now),
    member("ip", Text, Now),
    member("ip6", Text, Now),
    member("tap_name", Text, Now),
    member("tap_owner", NumberOrText, Now),
    member("tap_group", NumberOrText, Now),
    member("queues", Number, Now),
    member("model", Text, Now),
    member("mac", Text, Now),
    member("autoconfig", Boolean, Now),
    member("relay", ObjectOf(RELAY), Now),
    member("mode", Text, NotYetUnlessText("nat")),
    member("bridge", Text, NotYet),
    member("device", Text, NotYet),
    member("promiscuous", Boolean, NotYetUnless(false)),
    member("socket", Text, NotYet),
    member("vfkit", Boolean, NotYetUnless(false)),
    member("cgroup", Text, NotYet),
    member("mtu", Number, Now),
    member("guest_ip", Text, NotYet),
    member("guest_mac", Text, NotYet),
    member("guest_gateway", Text, NotYet),
];

const RELAY: &[Member] = &[member("name", Text, Now), member("relay_dns", Boolean, Now)];

const PUBLISH: &[Member] = &[
    member("host_port", Number, Now),
    member("guest_port", Number, Now),
    member("proto", Text, Now),
    member("address", Text, Now),
    member("allow_from", Texts, Now),
];

const LIMITS: &[Member] = &[member("pps", Number, Now), member("flows", Number, Now)];

/// The members of `object` with what the table says of them, null ones left out.
fn present<'a>(
    object: &'a Object,
    table: &'static [Member],
) -> impl Iterator<Item = (&'static Member, &'a Value)> {
    table.iter().filter_map(|member| {
        let value = object.get(member.name).filter(|value| !value.is_null())?;
        Some((member, value))
    })
}

impl Shape {
    /// The members of the objects that this type holds.
    const fn members(&self) -> Option<&'static [Member]> {
        match self {
            ObjectOf(table) | Objects(table) | TextsOrObjects(table) => Some(table),
            Text | Word(_) | Number | Boolean | NumberOrText | Texts | NumbersOrTexts
            | AnyObject | Any => None,
        }
    }

    const fn description(&self) -> &'static str {
        match self {
            Text | Word(_) => "a text",
            Number => "a whole number",
            Boolean => "true or false",
            NumberOrText => "a whole number or a text",
            Texts => "a list of texts",
            NumbersOrTexts => "a list of whole numbers or texts",
            TextsOrObjects(_) => "a list of texts or objects",
            ObjectOf(_) | AnyObject => "an object",
            Objects(_) => "a list of objects",
            Any => "anything",
        }
    }

    fn fits(&self, value: &Value) -> bool {
        let all =
            |fits: fn(&Value) -> bool| value.as_array().is_some_and(|list| list.iter().all(fits));
        match self {
            Text | Word(_) => value.is_string(),
            Number => value.is_u64(),
            Boolean => value.is_boolean(),
            NumberOrText => value.is_u64() || value.is_string(),
            Texts => all(Value::is_string),
            NumbersOrTexts => all(|item| item.is_u64() || item.is_string()),
            TextsOrObjects(_) => all(|item| item.is_string() || item.is_object()),
            ObjectOf(_) | AnyObject => value.is_object(),
            Objects(_) => all(Value::is_object),
            Any => true,
        }
    }
}

/// The objects inside a value: itself, or those of a list.
fn objects(value: &Value) -> impl Iterator<Item = &Object> {
    let list = value
        .as_array()
        .map_or(std::slice::from_ref(value), Vec::as_slice);
    list.iter().filter_map(Value::as_object)
}

/// Names members that the tables do not know, at any depth; `hidden` ones are unknown at the top.
pub(crate) fn check_unknown(
    object: &Object,
    table: &'static [Member],
    hidden: &[&str],
    faults: &mut Vec<SpecError>,
) {
    let known = |name: &String| {
        table.iter().any(|member| member.name == name) && !hidden.contains(&name.as_str())
    };
    let unknown = object.keys().filter(|name| !known(name));
    faults.extend(unknown.map(|name| SpecError::UnknownMember(name.clone())));
    for (inner, table) in inner_objects(object, table) {
        check_unknown(inner, table, &[], faults);
    }
}

/// Names values of the wrong type, at any depth.
pub(crate) fn check_types(object: &Object, table: &'static [Member], faults: &mut Vec<SpecError>) {
    for (member, value) in present(object, table) {
        if !member.shape.fits(value) {
            faults.push(SpecError::WrongType {
                member: member.name,
                expected: member.shape.description(),
            });
        }
    }
    for (inner, table) in inner_objects(object, table) {
        check_types(inner, table, faults);
    }
}

/// Names members that are not built yet and do not hold their default.
pub(crate) fn check_supported(
    object: &Object,
    table: &'static [Member],
    faults: &mut Vec<SpecError>,
) {
    for (member, value) in present(object, table) {
        let default = match member.built {
            Now => continue,
            NotYet => false,
            NotYetUnlessEmpty => is_empty(value),
            NotYetUnlessText(text) => value.as_str() == Some(text),
            NotYetUnless(default) => value.as_bool() == Some(default),
        };
        if !default {
            faults.push(SpecError::NotSupported(member.name));
        }
    }
    for (inner, table) in inner_objects(object, table) {
        check_supported(inner, table, faults);
    }
}

/// The objects inside the members of `object`, with the tables of their members.
fn inner_objects<'a>(
    object: &'a Object,
    table: &'static [Member],
) -> impl Iterator<Item = (&'a Object, &'static [Member])> {
    present(object, table).flat_map(|(member, value)| {
        let inner = member.shape.members();
        inner
            .into_iter()
            .flat_map(move |table| objects(value).map(move |object| (object, table)))
    })
}

/// Checks the members of a request that replaces a part of an instance, and reads their values.
pub(crate) fn check_replacement<T>(
    object: &Object,
    read: impl FnOnce(&mut Vec<SpecError>) -> T,
) -> Result<T, SpecError> {
    let mut faults = Vec::new();
    check_unknown(object, INSTANCE, &[], &mut faults);
    check_types(object, INSTANCE, &mut faults);
    if faults.is_empty() {
        let value = read(&mut faults);
        check_supported(object, INSTANCE, &mut faults);
        if faults.is_empty() {
            return Ok(value);
        }
    }
    Err(faults.swap_remove(0))
}

/// The members that have a value.
pub(crate) fn object<const N: usize>(members: [(&str, Option<Value>); N]) -> Object {
    let present = members.into_iter();
    present
        .filter_map(|(name, value)| Some((name.to_owned(), value?)))
        .collect()
}

/// Names of the members of a create request, and of an entry of `network_interfaces`.
#[must_use]
pub fn member_names() -> (Vec<&'static str>, Vec<&'static str>) {
    let names = |table: &'static [Member]| table.iter().map(|member| member.name).collect();
    (names(INSTANCE), names(INTERFACE))
}

/// A member as the OpenAPI document describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Described {
    /// Its name.
    pub name: &'static str,
    /// What it holds.
    pub kind: Kind,
}

/// What a member holds.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names say it")]
pub enum Kind {
    Text,
    Word(&'static [&'static str]),
    Number,
    Boolean,
    Any,
    List(Box<Self>),
    Object(Vec<Described>),
    OneOf(Vec<Self>),
}

/// The members of a create request.
#[must_use]
pub fn described_request() -> Vec<Described> {
    describe(INSTANCE)
}

fn describe(table: &'static [Member]) -> Vec<Described> {
    let members = table.iter();
    members
        .map(|member| Described {
            name: member.name,
            kind: member.shape.kind(),
        })
        .collect()
}

impl Shape {
    fn kind(&self) -> Kind {
        let list = |kind| Kind::List(Box::new(kind));
        match self {
            Text => Kind::Text,
            Word(words) => Kind::Word(words),
            Number => Kind::Number,
            Boolean => Kind::Boolean,
            NumberOrText => Kind::OneOf(vec![Kind::Number, Kind::Text]),
            Texts => list(Kind::Text),
            NumbersOrTexts => list(Kind::OneOf(vec![Kind::Number, Kind::Text])),
            TextsOrObjects(table) => {
                list(Kind::OneOf(vec![Kind::Text, Kind::Object(describe(table))]))
            }
            ObjectOf(table) => Kind::Object(describe(table)),
            Objects(table) => list(Kind::Object(describe(table))),
            AnyObject | Any => Kind::Any,
        }
    }
}

/// An empty list or object, or an object whose members are all null.
fn is_empty(value: &Value) -> bool {
    let list = value.as_array().is_some_and(Vec::is_empty);
    list || value
        .as_object()
        .is_some_and(|object| object.values().all(Value::is_null))
}
