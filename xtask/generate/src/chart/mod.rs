//! Generates the files below `charts/`: the custom resource definitions as templates, and the values of the chart in
//! three forms.

mod reference;
mod schema;
mod values;
mod yaml;

use anyhow::Context as _;
use serde_json::Value;

use crate::Generated;
use values::ChartValue;

/// Every generated file of both charts.
pub(crate) fn files() -> anyhow::Result<Vec<Generated>> {
    let values = values::values();
    let tree = tree(&values)?;
    Ok(vec![
        Generated {
            path: "charts/minichat/values.yaml",
            content: yaml::values(&tree)?,
        },
        Generated {
            path: "charts/minichat/values.schema.json",
            content: schema::values(&tree)?,
        },
        Generated {
            path: "charts/minichat/README.md",
            content: reference::markdown(&values),
        },
    ])
}

/// The rows as a tree of their paths.
enum Node<'a> {
    Section(Vec<(&'a str, Node<'a>)>),
    Leaf(&'a ChartValue, Value),
}

fn tree(values: &[ChartValue]) -> anyhow::Result<Node<'_>> {
    let mut root = Node::Section(Vec::new());
    for row in values {
        let default = serde_json::from_str(row.default)
            .with_context(|| format!("{}: the default is no JSON", row.path))?;
        let mut parts: Vec<&str> = row.path.split('.').collect();
        let name = parts.pop().unwrap_or_default();
        let section = parts.into_iter().try_fold(&mut root, Node::section);
        let section = section.with_context(|| format!("{}: below another value", row.path))?;
        if let Node::Section(children) = section {
            children.push((name, Node::Leaf(row, default)));
        }
    }
    Ok(root)
}

impl<'a> Node<'a> {
    /// The section `name` below this one, created if missing; `None` below a leaf.
    fn section(&mut self, name: &'a str) -> Option<&mut Self> {
        let Self::Section(children) = self else {
            return None;
        };
        let known = children.iter().position(|(child, _)| *child == name);
        let at = known.unwrap_or_else(|| {
            children.push((name, Self::Section(Vec::new())));
            children.len() - 1
        });
        Some(&mut children[at].1)
    }
}
