//! Names of instances and interfaces (I-5).

use std::fmt;

/// Bytes of a name.
const NAME_MAX: usize = 63;

/// A name: `[a-z0-9]([a-z0-9-]*[a-z0-9])?`, 63 characters or less.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Name(String);

impl Name {
    /// The name, where `text` has the form.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        let fits = (1..=NAME_MAX).contains(&text.len())
            && text.bytes().all(inner)
            && !text.starts_with('-')
            && !text.ends_with('-');
        fits.then(|| Self(text.to_owned()))
    }

    /// A name for an instance that has none.
    #[must_use]
    pub fn for_instance(random: u32) -> Self {
        Self(format!("vm-{random:08x}"))
    }

    /// A name for an interface that has none: `<instance>-eth<index>`, or `eth-` and eight random digits
    /// where that is too long.
    #[must_use]
    pub fn for_interface(instance: &Self, index: usize, random: u32) -> Self {
        let name = format!("{instance}-eth{index}");
        if name.len() <= NAME_MAX {
            Self(name)
        } else {
            Self::for_suffix(random)
        }
    }

    /// A name for an interface that does not name its instance.
    #[must_use]
    pub fn for_suffix(random: u32) -> Self {
        Self(format!("eth-{random:08x}"))
    }

    /// As text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_form_of_i5_is_a_name() {
        for good in ["a", "0", "a-b", "my-instance", &"a".repeat(63)] {
            assert!(Name::parse(good).is_some(), "{good}");
        }
        for bad in [
            "",
            "-a",
            "a-",
            "A",
            "a_b",
            "a.b",
            "a b",
            "ä",
            &"a".repeat(64),
        ] {
            assert!(Name::parse(bad).is_none(), "{bad}");
        }
    }

    #[test]
    fn an_interface_is_named_after_its_instance_where_that_fits() {
        let name = |len: usize| Name::parse(&"a".repeat(len)).unwrap();
        assert_eq!(Name::for_interface(&name(3), 2, 7).as_str(), "aaa-eth2");
        assert_eq!(Name::for_interface(&name(58), 0, 7).as_str().len(), 63);
        assert_eq!(
            Name::for_interface(&name(59), 0, 0xab).as_str(),
            "eth-000000ab"
        );
    }
}
