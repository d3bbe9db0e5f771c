//! Argo CD's view of a backend: docs/argo-cd-health.lua, run as Argo CD runs it, with the language itself and nothing else.

use mlua::{Lua, LuaOptions, StdLib, Table};
use serde_json::{Value, json};

const SCRIPT: &str = include_str!("../../docs/argo-cd-health.lua");

/// What the script says of an object: the health and the message.
pub fn health(object: &Value) -> (String, String) {
    let lua = Lua::new_with(StdLib::NONE, LuaOptions::default()).unwrap();
    lua.globals().set("obj", value(&lua, object)).unwrap();
    let said: Table = lua.load(SCRIPT).eval().unwrap_or_else(|error| panic!("{error}\n{object}"));
    (said.get("status").unwrap(), said.get("message").unwrap())
}

/// A value as the script finds it: what is null is not there.
fn value(lua: &Lua, json: &Value) -> mlua::Value {
    match json {
        Value::Null => mlua::Value::Nil,
        Value::Bool(value) => mlua::Value::Boolean(*value),
        Value::Number(number) => mlua::Value::Number(number.as_f64().unwrap()),
        Value::String(text) => mlua::Value::String(lua.create_string(text).unwrap()),
        Value::Array(items) => {
            let items = items.iter().map(|item| value(lua, item));
            mlua::Value::Table(lua.create_sequence_from(items).unwrap())
        }
        Value::Object(members) => {
            let members = members.iter().map(|(name, member)| (name.as_str(), value(lua, member)));
            mlua::Value::Table(lua.create_table_from(members).unwrap())
        }
    }
}

fn backend(generation: i64, observed: Value, conditions: Value) -> Value {
    json!({ "metadata": { "generation": generation }, "status": { "observedGeneration": observed, "conditions": conditions } })
}

fn is(type_: &str, status: &str) -> Value {
    json!({ "type": type_, "status": status, "reason": "Because", "message": "of this" })
}

#[test]
fn argo_cd_sees_what_the_conditions_say_and_nothing_of_an_older_generation() {
    let ready = || is("Ready", "True");
    let cases = [
        ("no status", json!({ "metadata": { "generation": 1 } }), "Progressing"),
        ("not seen yet", backend(1, json!(-1), Value::Null), "Progressing"),
        ("no condition", backend(1, json!(1), json!([])), "Progressing"),
        ("no generation", backend(1, Value::Null, json!([ready()])), "Progressing"),
        ("stale and ready", backend(2, json!(1), json!([ready()])), "Progressing"),
        ("stale and stalled", backend(2, json!(1), json!([is("Ready", "False"), is("Stalled", "True")])), "Progressing"),
        ("ready", backend(2, json!(2), json!([is("Sized", "True"), ready()])), "Healthy"),
        ("reconciling", backend(2, json!(2), json!([is("Ready", "False"), is("Reconciling", "True")])), "Progressing"),
        ("stalled", backend(2, json!(2), json!([is("Ready", "False"), is("Stalled", "True")])), "Degraded"),
        ("not ready", backend(2, json!(2), json!([is("Ready", "False")])), "Degraded"),
        ("unknown", backend(2, json!(2), json!([is("Ready", "Unknown")])), "Progressing"),
        ("only others", backend(2, json!(2), json!([is("Sized", "True")])), "Progressing"),
        ("suspended", backend(2, json!(2), json!([ready(), is("Suspended", "True")])), "Suspended"),
        ("not suspended", backend(2, json!(2), json!([ready(), is("Suspended", "False")])), "Healthy"),
    ];
    for (name, object, expected) in cases {
        assert_eq!(health(&object).0, expected, "{name}");
    }
    assert_eq!(health(&backend(1, json!(1), json!([ready()]))).1, "Because: of this");
    let silent = backend(1, json!(1), json!([{ "type": "Ready", "status": "True" }]));
    assert_eq!(health(&silent), ("Healthy".to_owned(), ": ".to_owned()));
}
