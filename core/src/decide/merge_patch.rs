//! JSON merge patches (RFC 7396).

use serde_json::{Map, Value};

/// The merge patch that turns `from` into `to`, or `None` when they are equal. Members that are null in `to` count as absent.
pub fn difference(from: &Value, to: &Value) -> Option<Value> {
    match (from, to) {
        (Value::Object(from), Value::Object(to)) => {
            let mut patch = Map::new();
            for (key, wanted) in to.iter().filter(|(_, wanted)| !wanted.is_null()) {
                match from.get(key) {
                    Some(present) => {
                        if let Some(change) = difference(present, wanted) {
                            patch.insert(key.clone(), change);
                        }
                    }
                    None => {
                        patch.insert(key.clone(), wanted.clone());
                    }
                }
            }
            for key in from.keys().filter(|key| to.get(*key).is_none_or(Value::is_null)) {
                patch.insert(key.clone(), Value::Null);
            }
            (!patch.is_empty()).then_some(Value::Object(patch))
        }
        (from, to) => (from != to).then(|| to.clone()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// RFC 7396, section 2, as written there.
    fn apply(target: &mut Value, patch: &Value) {
        let Value::Object(patch) = patch else {
            *target = patch.clone();
            return;
        };
        if !target.is_object() {
            *target = json!({});
        }
        let target = target.as_object_mut().unwrap();
        for (key, value) in patch {
            if value.is_null() {
                target.remove(key);
            } else {
                apply(target.entry(key.clone()).or_insert(Value::Null), value);
            }
        }
    }

    #[test]
    fn applying_the_difference_gives_the_wanted_object() {
        let cases = [
            (json!({}), json!({"a": 1})),
            (json!({"a": {"b": 1, "c": 2}}), json!({"a": {"b": 1}})),
            (json!({"a": [1, 2]}), json!({"a": [2]})),
            (json!({"a": 1, "b": {"c": 1}}), json!({"b": {"c": 1, "d": {"e": 1}}})),
            (json!({"a": {"b": 1}}), json!({"a": "text"})),
            (json!({"a": "text"}), json!({"a": {"b": 1}})),
        ];
        for (from, to) in cases {
            let patch = difference(&from, &to).unwrap();
            let mut result = from.clone();
            apply(&mut result, &patch);
            assert_eq!(result, to, "{patch}");
        }
    }

    #[test]
    fn equal_objects_need_no_patch() {
        assert_eq!(difference(&json!({"a": [1]}), &json!({"a": [1]})), None);
        assert_eq!(difference(&json!({"a": 1}), &json!({"a": 1, "b": null})), None);
    }
}
