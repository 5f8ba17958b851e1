//! What becomes of connections whose other end lies outside the dump: rules, of
//! which the last that matches holds.

use std::fmt;
use std::str::FromStr;

use serde::Serialize;

/// Kinds of connections to the outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum OutsideKind {
    /// AF_UNIX sockets of every type.
    Unix,
    /// TCP connections; UDP sockets need no other end.
    Tcp,
    /// Pipes and FIFOs.
    Pipe,
    /// Terminals.
    Tty,
}

/// What becomes of a connection to the outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum OutsidePolicy {
    /// The dump, or the restore, is refused.
    Refuse,
    /// A keeper holds it while the task is gone: the other end notices nothing.
    Keep,
    /// Restore connects anew to the same address.
    Reconnect,
    /// It comes back as if the other end had closed it.
    Close,
    /// Keep; if the keeper is gone, reconnect where there is an address, else
    /// close.
    Auto,
}

/// A policy for some connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OutsideRule {
    /// Which.
    pub of: OutsideMatch,
    /// What becomes of them.
    pub policy: OutsidePolicy,
}

/// Connections that a rule is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OutsideMatch {
    /// All.
    All,
    /// Those of a kind.
    Kind(OutsideKind),
    /// The AF_UNIX socket with this inode number.
    UnixSocket(u64),
}

/// Rules, in the order in which they were given.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct OutsideRules(Vec<OutsideRule>);

impl OutsideRules {
    /// Adds a rule, which comes before all others.
    pub fn push(&mut self, rule: OutsideRule) {
        self.0.push(rule);
    }

    /// What the last rule says that matches a connection of this kind, with
    /// this inode number; `None`: there is no such rule.
    pub fn find(&self, kind: OutsideKind, inode: u64) -> Option<OutsidePolicy> {
        let matches = |rule: &&OutsideRule| match rule.of {
            OutsideMatch::All => true,
            OutsideMatch::Kind(of) => of == kind,
            OutsideMatch::UnixSocket(of) => kind == OutsideKind::Unix && of == inode,
        };
        let found = self.0.iter().rev().find(matches);
        found.map(|rule| rule.policy)
    }

    /// The same; refused where no rule says otherwise.
    pub fn policy(&self, kind: OutsideKind, inode: u64) -> OutsidePolicy {
        self.find(kind, inode).unwrap_or(OutsidePolicy::Refuse)
    }
}

impl FromIterator<OutsideRule> for OutsideRules {
    fn from_iter<T: IntoIterator<Item = OutsideRule>>(rules: T) -> Self {
        Self(rules.into_iter().collect())
    }
}

const KINDS: [(&str, OutsideKind); 4] = [
    ("unix", OutsideKind::Unix),
    ("tcp", OutsideKind::Tcp),
    ("pipe", OutsideKind::Pipe),
    ("tty", OutsideKind::Tty),
];

const POLICIES: [(&str, OutsidePolicy); 5] = [
    ("refuse", OutsidePolicy::Refuse),
    ("keep", OutsidePolicy::Keep),
    ("reconnect", OutsidePolicy::Reconnect),
    ("close", OutsidePolicy::Close),
    ("auto", OutsidePolicy::Auto),
];

impl FromStr for OutsideRule {
    type Err = String;

    /// `[KIND=]POLICY`.
    fn from_str(text: &str) -> Result<Self, String> {
        let (kind, policy) = match text.split_once('=') {
            Some((kind, policy)) => (Some(kind), policy),
            None => (None, text),
        };
        let of = match kind {
            Some(kind) => OutsideMatch::Kind(named(&KINDS, "kind", kind)?),
            None => OutsideMatch::All,
        };
        let policy = named(&POLICIES, "policy", policy)?;
        Ok(Self { of, policy })
    }
}

fn named<T: Copy>(table: &[(&str, T)], what: &str, name: &str) -> Result<T, String> {
    let found = table.iter().find(|(known, _)| *known == name);
    found.map(|(_, value)| *value).ok_or_else(|| {
        let known: Vec<&str> = table.iter().map(|(name, _)| *name).collect();
        format!(
            "there is no {what} {name:?}; there are {}",
            known.join(", ")
        )
    })
}

fn name_of<T: PartialEq>(table: &[(&'static str, T)], value: &T) -> &'static str {
    let found = table.iter().find(|(_, known)| known == value);
    found.map_or("", |(name, _)| name)
}

impl fmt::Display for OutsideKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(name_of(&KINDS, self))
    }
}

impl fmt::Display for OutsidePolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(name_of(&POLICIES, self))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(texts: &[&str]) -> Result<OutsideRules, String> {
        texts.iter().map(|text| text.parse()).collect()
    }

    #[test]
    fn the_last_rule_that_matches_holds() {
        let rules = rules(&["unix=keep", "close", "pipe=auto"]).unwrap();
        assert_eq!(rules.policy(OutsideKind::Unix, 1), OutsidePolicy::Close);
        assert_eq!(rules.policy(OutsideKind::Pipe, 1), OutsidePolicy::Auto);
        let none = OutsideRules::default();
        assert_eq!(none.policy(OutsideKind::Tty, 1), OutsidePolicy::Refuse);
        assert_eq!(none.find(OutsideKind::Tty, 1), None);
    }

    #[test]
    fn a_socket_may_be_named_by_its_number() {
        let mut rules = rules(&["refuse"]).unwrap();
        rules.push(OutsideRule {
            of: OutsideMatch::UnixSocket(7),
            policy: OutsidePolicy::Auto,
        });
        assert_eq!(rules.policy(OutsideKind::Unix, 7), OutsidePolicy::Auto);
        assert_eq!(rules.policy(OutsideKind::Unix, 8), OutsidePolicy::Refuse);
        assert_eq!(rules.policy(OutsideKind::Pipe, 7), OutsidePolicy::Refuse);
    }

    #[test]
    fn what_makes_no_sense_is_refused_with_what_does() {
        for text in ["unix=", "=keep", "x11=keep", "unix=stay", "keep=unix", ""] {
            assert!(rules(&[text]).is_err(), "{text}");
        }
        let error = rules(&["x11=keep"]).unwrap_err();
        assert_eq!(
            error,
            "there is no kind \"x11\"; there are unix, tcp, pipe, tty"
        );
    }
}
