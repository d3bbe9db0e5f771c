//! From the model that a client asks for to the route that answers.

use std::collections::HashMap;
use std::sync::Arc;

use crate::decide::gateway::plan::{Caller, Plan, Route};

/// The alias that stands for every name that no route of the namespace has.
const ANY: &str = "*";

/// Why no route answers a model name. A client hears the same in both cases: the model does not exist.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoRoute {
    /// No route has the name.
    #[error("no route has this model name, and none that the caller may call has the alias \"*\"")]
    Unknown,
    /// A route has it that the caller may not call. It does not fall to a route with "*" then: that would answer with another
    /// model than the one that the name means in this namespace.
    #[error("the route {0} has this model name, and the caller may not call it")]
    NotAllowed(String),
}

/// What the model names of a plan mean: made once for a plan, for a call would look through all its routes.
#[derive(Clone, Debug)]
pub struct ModelNames {
    /// The route that has a name: of several the first, and one whose own name it is before one that has it as an alias.
    owners: HashMap<String, Arc<str>>,
    /// The routes that answer for every other name, in their order.
    any: Vec<Arc<str>>,
}

impl ModelNames {
    /// Those of a plan.
    pub fn of(plan: &Plan) -> Self {
        let routes: Vec<(Arc<str>, &Route)> = plan.routes.iter().map(|(name, route)| (name.as_str().into(), route)).collect();
        let own = routes.iter().map(|(name, route)| (&route.model_name, name));
        let aliases = routes.iter().flat_map(|(name, route)| route.aliases.iter().map(move |alias| (alias, name)));
        let mut owners = HashMap::new();
        for (model, name) in own.chain(aliases.filter(|(alias, _)| *alias != ANY)) {
            owners.entry(model.clone()).or_insert_with(|| Arc::clone(name));
        }
        let any = routes.iter().filter(|(_, route)| route.aliases.contains(ANY)).map(|(name, _)| Arc::clone(name));
        Self { owners, any: any.collect() }
    }

    /// The route that answers a caller who asks for a model, with its name. `plan` is the one whose names these are.
    ///
    /// # Errors
    ///
    /// When no route answers.
    pub fn route_of<'a>(&self, plan: &'a Plan, caller: &Caller, model: &str) -> Result<(Arc<str>, &'a Route), NoRoute> {
        let may_call = |name: &str| caller.routes.contains(name);
        let name = match self.owners.get(model) {
            Some(name) if may_call(name) => Some(name),
            Some(name) => return Err(NoRoute::NotAllowed(name.to_string())),
            None => self.any.iter().find(|name| may_call(name)),
        };
        name.and_then(|name| Some((Arc::clone(name), plan.routes.get(&**name)?))).ok_or(NoRoute::Unknown)
    }
}

/// The names that a caller may ask for, sorted, each once: what `GET /v1/models` lists. "*" is not a name.
pub fn models<'a>(plan: &'a Plan, caller: &Caller) -> Vec<&'a str> {
    let routes = caller.routes.iter().filter_map(|name| plan.routes.get(name));
    let names = routes.flat_map(|route| std::iter::once(&route.model_name).chain(&route.aliases)).map(String::as_str);
    let mut names: Vec<&str> = names.filter(|name| *name != ANY).collect();
    names.sort_unstable();
    names.dedup();
    names
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;
    use crate::decide::request::fixtures;

    fn plan() -> Plan {
        let route = |model: &str, aliases: &[&str]| {
            let aliases = aliases.iter().map(|alias| (*alias).to_owned()).collect();
            Route { model_name: model.to_owned(), aliases, ..fixtures::route(&[]) }
        };
        let routes =
            [("smart-router", route("smart", &["gpt-4o"])), ("rest", route("rest", &["*"])), ("secret", route("secret", &["o3"]))];
        Plan { routes: routes.map(|(name, route)| (name.to_owned(), route)).into(), ..Plan::default() }
    }

    fn route_of(plan: &Plan, caller: &Caller, model: &str) -> Result<String, NoRoute> {
        ModelNames::of(plan).route_of(plan, caller, model).map(|(name, _)| name.to_string())
    }

    fn caller(routes: &[&str]) -> Caller {
        Caller { routes: routes.iter().map(|route| (*route).to_owned()).collect(), ..Caller::default() }
    }

    #[rstest]
    #[case("smart", Ok("smart-router"))]
    #[case("gpt-4o", Ok("smart-router"))]
    #[case("rest", Ok("rest"))]
    #[case("claude-sonnet-4", Ok("rest"))]
    #[case("*", Ok("rest"))]
    #[case("smart-router", Ok("rest"))]
    #[case("secret", Err(NoRoute::NotAllowed("secret".to_owned())))]
    #[case("o3", Err(NoRoute::NotAllowed("secret".to_owned())))]
    fn a_model_name_or_alias_leads_to_its_route_and_any_other_name_to_the_star(
        #[case] model: &str,
        #[case] route: Result<&str, NoRoute>,
    ) {
        assert_eq!(route_of(&plan(), &caller(&["smart-router", "rest", "vanished"]), model), route.map(str::to_owned));
    }

    #[test]
    fn without_a_star_that_the_caller_may_call_an_unknown_name_has_no_route() {
        assert_eq!(route_of(&plan(), &caller(&["smart-router"]), "claude"), Err(NoRoute::Unknown));
        assert_eq!(route_of(&plan(), &caller(&[]), "*"), Err(NoRoute::Unknown));
    }

    #[test]
    fn of_several_routes_with_a_name_the_first_has_it_and_an_own_name_comes_before_an_alias() {
        let route = |model: &str, alias: &str| Route {
            model_name: model.to_owned(),
            aliases: [alias.to_owned()].into(),
            ..fixtures::route(&[])
        };
        let routes =
            [("a", route("one", "two")), ("b", route("two", "one")), ("c", route("two", "three")), ("d", route("four", "three"))];
        let plan = Plan { routes: routes.map(|(name, route)| (name.to_owned(), route)).into(), ..Plan::default() };
        let all = caller(&["a", "b", "c", "d"]);
        for (model, route) in [("one", "a"), ("two", "b"), ("three", "c"), ("four", "d")] {
            assert_eq!(route_of(&plan, &all, model), Ok(route.to_owned()));
        }
    }

    #[test]
    fn a_caller_sees_the_names_of_its_own_routes_only() {
        assert_eq!(models(&plan(), &caller(&["smart-router", "rest", "vanished"])), ["gpt-4o", "rest", "smart"]);
        assert_eq!(models(&plan(), &caller(&[])), [""; 0]);
    }
}
