//! CEL rules (`x-kubernetes-validations`) of a schema, evaluated on a value.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::{Arc, PoisonError, RwLock};

use kube_cel::KubeCelExt;
use kube_cel::cel::extractors::This;
use kube_cel::cel::{Context, ExecutionError, Program, Value as CelValue};
use minichat_config::Faults;
use serde_json::Value;

use super::patterns;

/// Bytes of a message that an expression may make, as on the API server.
const MAX_MESSAGE: usize = 5 * 1024;

/// The rules of one schema node and of those below.
#[derive(Default)]
pub(super) struct Rules {
    here: Vec<Rule>,
    properties: BTreeMap<String, Rules>,
    items: Option<Box<Rules>>,
    passed: Passed,
}

/// Lists that broke no rule lately. Tenants are often made of one template, so that
/// thousands have the same models, and a comparison costs a hundredth of a rule. Objects
/// around the lists have names and ids, and differ.
#[derive(Default)]
struct Passed(RwLock<VecDeque<Value>>);

impl Passed {
    const CAPACITY: usize = 8;

    fn has(&self, value: &Value) -> bool {
        let passed = self.0.read().unwrap_or_else(PoisonError::into_inner);
        passed.iter().any(|known| known == value)
    }

    fn add(&self, value: &Value) {
        // Other threads wait for what is done while the lock is held.
        let value = value.clone();
        let mut passed = self.0.write().unwrap_or_else(PoisonError::into_inner);
        passed.truncate(Self::CAPACITY - 1);
        passed.push_front(value);
    }
}

/// One rule; a program that does not compile refuses every object, as the API
/// server would refuse the definition.
struct Rule {
    program: Option<Program>,
    message: String,
    /// Makes a message of the value; [`Self::message`] stands in for it where it
    /// fails, as on the API server.
    message_expression: Option<Program>,
    /// Appended to the path of the node, such as `.tenantId`.
    field_path: String,
    /// Whether it compares with the stored object.
    transition: bool,
}

impl Rules {
    /// Compiles the rules of `schema`.
    pub(super) fn of(schema: &Value) -> Self {
        let here = schema["x-kubernetes-validations"].as_array();
        let properties = schema["properties"].as_object();
        Self {
            here: here.into_iter().flatten().map(Rule::of).collect(),
            properties: properties
                .into_iter()
                .flatten()
                .map(|(name, schema)| (name.clone(), Self::of(schema)))
                .filter(|(_, rules)| !rules.is_empty())
                .collect(),
            items: schema
                .get("items")
                .map(|schema| Box::new(Self::of(schema)))
                .filter(|rules| !rules.is_empty()),
            passed: Passed::default(),
        }
    }

    fn is_empty(&self) -> bool {
        self.here.is_empty() && self.properties.is_empty() && self.items.is_none()
    }

    /// Adds a fault for every rule that `value` breaks. Items of lists have no
    /// stored counterpart: no rule of an item compares with one.
    pub(super) fn evaluate(
        &self,
        value: &Value,
        old: Option<&Value>,
        path: &str,
        faults: &mut Faults,
    ) {
        if !self.here.is_empty() {
            let seen = Variables::of(value, old);
            for rule in &self.here {
                if !rule.holds(&seen) {
                    let message = rule.message_about(&seen);
                    faults.add(format!("{path}{}", rule.field_path), message);
                }
            }
        }
        for (name, rules) in &self.properties {
            if let Some(child) = value.get(name) {
                let path = if path.is_empty() {
                    name.clone()
                } else {
                    format!("{path}.{name}")
                };
                rules.evaluate_once(child, old.and_then(|old| old.get(name)), &path, faults);
            }
        }
        if let (Some(rules), Some(items)) = (&self.items, value.as_array()) {
            for (i, item) in items.iter().enumerate() {
                rules.evaluate(item, None, &format!("{path}[{i}]"), faults);
            }
        }
    }

    /// The same, unless `value` is known to break no rule.
    fn evaluate_once(&self, value: &Value, old: Option<&Value>, path: &str, faults: &mut Faults) {
        let is_remembered = old.is_none() && value.is_array();
        if is_remembered && self.passed.has(value) {
            return;
        }
        let before = faults.0.len();
        self.evaluate(value, old, path, faults);
        if is_remembered && faults.0.len() == before {
            self.passed.add(value);
        }
    }
}

impl Rule {
    fn of(rule: &Value) -> Self {
        let text = |key: &str| rule[key].as_str().unwrap_or_default();
        Self {
            program: Program::compile(text("rule")).ok(),
            message: text("message").to_owned(),
            message_expression: Program::compile(text("messageExpression")).ok(),
            field_path: text("fieldPath").to_owned(),
            transition: text("rule").contains("oldSelf"),
        }
    }

    fn holds(&self, seen: &Variables) -> bool {
        if self.transition && seen.old.is_none() {
            return true;
        }
        let Some(program) = &self.program else {
            return false;
        };
        // What cannot be evaluated is refused, as on the API server.
        let result = execute(program, seen);
        matches!(result, Ok(CelValue::Bool(true)))
    }

    /// What is wrong with a value that breaks the rule.
    fn message_about(&self, seen: &Variables) -> String {
        let made = self.message_expression.as_ref().and_then(|program| {
            let CelValue::String(text) = execute(program, seen).ok()? else {
                return None;
            };
            let is_usable = text.len() <= MAX_MESSAGE && !text.is_empty() && !text.contains('\n');
            is_usable.then(|| text.to_string())
        });
        made.unwrap_or_else(|| self.message.clone())
    }
}

/// What the rules of one node see: `self` and `oldSelf`.
struct Variables {
    new: CelValue,
    old: Option<CelValue>,
}

impl Variables {
    fn of(value: &Value, old: Option<&Value>) -> Self {
        Self {
            new: cel_value(value),
            old: old.map(cel_value),
        }
    }
}

fn execute(program: &Program, seen: &Variables) -> Result<CelValue, ExecutionError> {
    FUNCTIONS.with(|functions| {
        let mut context = functions.new_inner_scope();
        context.add_variable_from_value("self", seen.new.clone());
        if let Some(old) = &seen.old {
            context.add_variable_from_value("oldSelf", old.clone());
        }
        program.execute(&context)
    })
}

thread_local! {
    /// What rules may call. To register it costs more than most rules.
    static FUNCTIONS: Context<'static> = functions();
}

fn functions() -> Context<'static> {
    let mut context = Context::default().with_all();
    context.add_function("type", type_name);
    context.add_function("matches", matches_pattern);
    for name in ["int", "string"] {
        context.add_variable_from_value(name, name);
    }
    context
}

/// The function `matches()` with each pattern compiled once: the interpreter's own
/// compiles it for every call, which took half of the time of reading a directory.
#[expect(
    clippy::needless_pass_by_value,
    reason = "the interpreter passes values"
)]
fn matches_pattern(
    This(text): This<Arc<String>>,
    pattern: Arc<String>,
) -> Result<bool, ExecutionError> {
    let compiled = patterns::compiled(&pattern);
    let invalid = || ExecutionError::function_error("matches", "the pattern is not valid");
    compiled
        .map(|compiled| compiled.is_match(&text))
        .ok_or_else(invalid)
}

/// The function `type()` that the interpreter lacks, as far as rules need it:
/// its results compare equal to the variables `int` and `string`.
#[expect(
    clippy::needless_pass_by_value,
    reason = "the interpreter passes values"
)]
fn type_name(value: CelValue) -> String {
    let name = match value {
        CelValue::Int(_) => "int",
        CelValue::String(_) => "string",
        _ => "other",
    };
    name.to_owned()
}

fn cel_value(value: &Value) -> CelValue {
    match value {
        Value::Null => CelValue::Null,
        Value::Bool(b) => CelValue::Bool(*b),
        Value::Number(n) => n.as_i64().map_or_else(
            || CelValue::Float(n.as_f64().unwrap_or(f64::NAN)),
            CelValue::Int,
        ),
        Value::String(text) => CelValue::String(Arc::new(text.clone())),
        Value::Array(items) => CelValue::List(Arc::new(items.iter().map(cel_value).collect())),
        Value::Object(map) => {
            let map: HashMap<String, CelValue> = map
                .iter()
                .map(|(key, value)| (key.clone(), cel_value(value)))
                .collect();
            CelValue::Map(map.into())
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn lists_that_passed_are_remembered_and_the_objects_around_them_are_not() {
        let rules = Rules::of(&json!({"properties": {"spec": {"properties": {"models": {
            "x-kubernetes-validations": [{"rule": "size(self) < 2", "message": "at most one"}],
        }}}}}));
        let evaluate = |models: Value| {
            let mut faults = Faults::default();
            rules.evaluate(&json!({"spec": {"models": models}}), None, "", &mut faults);
            faults.0.len()
        };
        assert_eq!(evaluate(json!(["a"])), 0);
        assert_eq!(evaluate(json!(["a", "b"])), 1);
        let spec = &rules.properties["spec"];
        let known = |rules: &Rules| rules.passed.0.read().unwrap().clone();
        assert_eq!(known(&spec.properties["models"]), [json!(["a"])]);
        assert!(known(spec).is_empty());
    }
}
