//! The names that clients put into "model": each belongs to one route of a namespace.

use std::collections::BTreeMap;

use super::plan::Route;
use super::route_problem::Problem;
use crate::api::model_route::ModelRouteSpec;

/// The names that are taken, and by which route.
#[derive(Debug, Default)]
pub(super) struct ModelNames(BTreeMap<String, String>);

impl ModelNames {
    /// Takes the names of a route. Aliases that another route has are left out of it, and told.
    ///
    /// # Errors
    ///
    /// Another route has its model name: nothing was taken.
    pub(super) fn take(&mut self, name: &str, route: &mut Route, spec: &ModelRouteSpec) -> Result<Vec<Problem>, Problem> {
        let taken = |asked: &str| self.0.get(asked).filter(|by| by.as_str() != name);
        let problem =
            |field: &str, asked: &str, by: &str| Problem::NameTaken { field: field.into(), name: asked.into(), by: by.into() };
        if let Some(by) = taken(&route.model_name) {
            let field = if spec.model_name.is_some() { "spec.modelName" } else { "metadata.name, in place of spec.modelName" };
            return Err(problem(field, &route.model_name, by));
        }
        let mut lost = Vec::new();
        route.aliases.retain(|alias| match taken(alias) {
            Some(by) => {
                lost.push(problem("spec.aliases", alias, by));
                false
            }
            None => true,
        });
        for asked in route.aliases.iter().chain([&route.model_name]) {
            self.0.insert(asked.clone(), name.to_owned());
        }
        Ok(lost)
    }
}
