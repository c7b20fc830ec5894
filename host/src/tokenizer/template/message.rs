//! Messages of a conversation, as templates see them.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// One message: a JSON object whose keys keep their order.  Templates read `role` and `content`, and some further keys, such
/// as `tool_calls`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Message(pub Map<String, Value>);

impl Message {
    /// A message of text; `role` is `system`, `user`, `assistant` or what else the template knows.
    pub fn new(role: impl Into<String>, content: impl Into<String>) -> Message {
        let fields = [("role", role.into()), ("content", content.into())];
        Message(fields.into_iter().map(|(key, text)| (key.to_owned(), Value::String(text))).collect())
    }

    /// Who speaks; `None` if the message does not say.
    pub fn role(&self) -> Option<&str> {
        self.0.get("role")?.as_str()
    }

    /// The text; `None` if there is none, or if it is a list of parts.
    pub fn content(&self) -> Option<&str> {
        self.0.get("content")?.as_str()
    }

    /// Calls `visit` with each string of the content: one, or those of its parts.
    pub(crate) fn each_content(&self, visit: &mut impl FnMut(&str)) {
        if let Some(content) = self.0.get("content") {
            each_string(content, visit);
        }
    }

    /// The message with each string of its content changed by `change`.
    pub(crate) fn map_content(&self, change: impl Fn(&str) -> String) -> Message {
        let mut message = self.clone();
        if let Some(content) = message.0.get_mut("content") {
            map_strings(content, &change);
        }
        message
    }
}

fn each_string(value: &Value, visit: &mut impl FnMut(&str)) {
    match value {
        Value::String(text) => visit(text),
        Value::Array(items) => items.iter().for_each(|item| each_string(item, visit)),
        Value::Object(fields) => fields.values().for_each(|field| each_string(field, visit)),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

fn map_strings(value: &mut Value, change: &impl Fn(&str) -> String) {
    match value {
        Value::String(text) => *text = change(text),
        Value::Array(items) => items.iter_mut().for_each(|item| map_strings(item, change)),
        Value::Object(fields) => fields.values_mut().for_each(|field| map_strings(field, change)),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}
