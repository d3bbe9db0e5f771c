//! Reads sources as the compiler does, without what is compiled for tests alone, and tells what in them is not pure.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use proc_macro2::{Delimiter, Span, TokenStream, TokenTree};
use quote::ToTokens as _;
use syn::visit_mut::{self, VisitMut};
use syn::{Attribute, Item, Meta, Token, UseTree};

/// Paths that may not be named, with all that is below them.
const FORBIDDEN_PATHS: &[&str] = &[
    "std::fs",
    "std::env",
    "std::thread",
    "std::process",
    "std::io",
    "std::os",
    "std::time::SystemTime",
    "std::time::Instant",
    "std::time::UNIX_EPOCH",
    "kube::Client",
    "kube::Api",
    "kube::Config",
    "kube::api::Api",
    "kube::client",
    "kube::config",
    "kube::runtime",
];

/// Of `std::net` only addresses as values.
const ADDRESSES: &[&str] = &["IpAddr", "Ipv4Addr", "Ipv6Addr", "SocketAddr", "SocketAddrV4", "SocketAddrV6", "AddrParseError"];

/// Crates that may not be named, whatever of them.
const FORBIDDEN_CRATES: &[&str] = &[
    "tokio",
    "tokio_util",
    "futures",
    "hyper",
    "reqwest",
    "rustls",
    "axum",
    "tower",
    "tracing",
    "tracing_subscriber",
    "log",
    "prometheus",
    "kube_client",
    "kube_runtime",
    "getrandom",
    "fastrand",
    "rand",
    "socket2",
    "libc",
    "rustix",
];

/// Macros that write somewhere.
const FORBIDDEN_MACROS: &[&str] = &["print", "println", "eprint", "eprintln", "dbg", "trace", "debug", "info", "warn", "error"];

/// Roots whose other names would hide what is below them.
const ROOTS: &[&str] = &["std", "kube", "jiff"];

/// What was read of a crate.
#[derive(Debug, Default)]
pub struct Reading {
    /// The files that are compiled outside tests.
    pub files: BTreeSet<PathBuf>,
    /// What is not pure: file, line, and what.
    pub findings: Vec<String>,
}

/// Reads a crate from its root, following its modules.
pub fn check_crate(root: &Path) -> Reading {
    let mut reading = Reading::default();
    read_file(root, root.parent().unwrap(), &mut reading);
    reading
}

/// The findings in one text: line and what.
pub fn check_text(text: &str) -> Vec<String> {
    let mut file = syn::parse_file(text).unwrap_or_else(|error| panic!("{error}: {text}"));
    findings(&mut file)
}

/// `directory` is where the files of this file's modules are.
fn read_file(path: &Path, directory: &Path, reading: &mut Reading) {
    let text = std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let mut file = syn::parse_file(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let found = findings(&mut file);
    reading.findings.extend(found.into_iter().map(|finding| format!("{}, {finding}", path.display())));
    reading.files.insert(path.to_owned());
    read_modules(&file.items, path, directory, reading);
}

/// Follows modules in files of their own; what is for tests alone is no longer among the items.
fn read_modules(items: &[Item], path: &Path, directory: &Path, reading: &mut Reading) {
    for item in items {
        let Item::Mod(module) = item else { continue };
        let name = module.ident.to_string();
        let below = directory.join(&name);
        match &module.content {
            Some((_, items)) => read_modules(items, path, &below, reading),
            None => {
                assert!(path_attribute(&module.attrs).is_none(), "{}: the module {name} has another path", path.display());
                let file = directory.join(format!("{name}.rs"));
                let file = if file.exists() { file } else { below.join("mod.rs") };
                read_file(&file, &below, reading);
            }
        }
    }
}

fn path_attribute(attributes: &[Attribute]) -> Option<&Attribute> {
    attributes.iter().find(|attribute| attribute.path().is_ident("path"))
}

fn findings(file: &mut syn::File) -> Vec<String> {
    WithoutTests.visit_file_mut(file);
    let mut uses = Uses::default();
    uses.visit_file_mut(file);
    let mut findings = uses.findings;
    let stream = quote_of(file);
    scan(stream, &mut findings);
    findings.sort();
    findings.dedup();
    findings.into_iter().map(|(line, what)| format!("line {line}: {what}")).collect()
}

fn quote_of(file: &syn::File) -> TokenStream {
    let mut stream = TokenStream::new();
    for item in &file.items {
        item.to_tokens(&mut stream);
    }
    stream
}

/// Takes out what is compiled for tests alone.
struct WithoutTests;

impl VisitMut for WithoutTests {
    fn visit_file_mut(&mut self, file: &mut syn::File) {
        file.items.retain(|item| !is_test(attributes(item)));
        visit_mut::visit_file_mut(self, file);
    }

    fn visit_item_mod_mut(&mut self, module: &mut syn::ItemMod) {
        if let Some((_, items)) = &mut module.content {
            items.retain(|item| !is_test(attributes(item)));
        }
        visit_mut::visit_item_mod_mut(self, module);
    }

    fn visit_item_impl_mut(&mut self, block: &mut syn::ItemImpl) {
        block.items.retain(|item| match item {
            syn::ImplItem::Fn(function) => !is_test(&function.attrs),
            syn::ImplItem::Const(constant) => !is_test(&constant.attrs),
            _ => true,
        });
        visit_mut::visit_item_impl_mut(self, block);
    }

    fn visit_block_mut(&mut self, block: &mut syn::Block) {
        block.stmts.retain(|statement| !matches!(statement, syn::Stmt::Item(item) if is_test(attributes(item))));
        visit_mut::visit_block_mut(self, block);
    }
}

fn attributes(item: &Item) -> &[Attribute] {
    match item {
        Item::Const(item) => &item.attrs,
        Item::Enum(item) => &item.attrs,
        Item::Fn(item) => &item.attrs,
        Item::Impl(item) => &item.attrs,
        Item::Macro(item) => &item.attrs,
        Item::Mod(item) => &item.attrs,
        Item::Static(item) => &item.attrs,
        Item::Struct(item) => &item.attrs,
        Item::Trait(item) => &item.attrs,
        Item::Type(item) => &item.attrs,
        Item::Use(item) => &item.attrs,
        _ => &[],
    }
}

fn is_test(attributes: &[Attribute]) -> bool {
    attributes.iter().any(|attribute| {
        attribute.path().is_ident("test")
            || (attribute.path().is_ident("cfg") && attribute.parse_args::<Meta>().is_ok_and(|condition| needs_test(&condition)))
    })
}

/// Whether the condition holds in tests alone: `test`, or `all(...)` with such a part.
fn needs_test(condition: &Meta) -> bool {
    match condition {
        Meta::Path(path) => path.is_ident("test"),
        Meta::List(list) if list.path.is_ident("all") => list
            .parse_args_with(syn::punctuated::Punctuated::<Meta, Token![,]>::parse_terminated)
            .is_ok_and(|parts| parts.iter().any(needs_test)),
        _ => false,
    }
}

/// What `use` names, with groups taken apart; and items that no path tells of.
#[derive(Default)]
struct Uses {
    findings: Vec<(usize, String)>,
}

impl Uses {
    fn tree(&mut self, tree: &UseTree, prefix: &[String]) {
        let with = |ident: &syn::Ident| [prefix, &[ident.to_string()]].concat();
        match tree {
            UseTree::Path(path) => self.tree(&path.tree, &with(&path.ident)),
            UseTree::Group(group) => group.items.iter().for_each(|tree| self.tree(tree, prefix)),
            UseTree::Name(name) => {
                let path = if name.ident == "self" { prefix.to_vec() } else { with(&name.ident) };
                self.path(&path, name.ident.span());
            }
            UseTree::Rename(rename) => {
                let path = if rename.ident == "self" { prefix.to_vec() } else { with(&rename.ident) };
                if let [root] = path.as_slice()
                    && ROOTS.contains(&root.as_str())
                {
                    self.findings.push((line(rename.ident.span()), format!("use {root} as {}", rename.rename)));
                }
                self.path(&path, rename.ident.span());
            }
            UseTree::Glob(glob) => {
                let root = prefix.join("::");
                if FORBIDDEN_PATHS.iter().any(|path| path.starts_with(&format!("{root}::"))) {
                    self.findings.push((line(glob.star_token.spans[0]), format!("{root}::*")));
                }
                self.path(prefix, glob.star_token.spans[0]);
            }
        }
    }

    fn path(&mut self, path: &[String], span: Span) {
        if let Some(what) = forbidden(path) {
            self.findings.push((line(span), what));
        }
    }
}

impl VisitMut for Uses {
    fn visit_item_use_mut(&mut self, item: &mut syn::ItemUse) {
        self.tree(&item.tree, &[]);
    }

    fn visit_item_extern_crate_mut(&mut self, item: &mut syn::ItemExternCrate) {
        self.findings.push((line(item.ident.span()), format!("extern crate {}", item.ident)));
    }

    fn visit_item_foreign_mod_mut(&mut self, item: &mut syn::ItemForeignMod) {
        self.findings.push((line(item.brace_token.span.open()), "extern \"C\"".to_owned()));
    }
}

/// Finds paths and macros among tokens, inside of macros too. The tokens of comments are none, those of strings are one.
fn scan(stream: TokenStream, findings: &mut Vec<(usize, String)>) {
    let tokens: Vec<TokenTree> = stream.into_iter().collect();
    let is_mark = |index: usize, mark: char| matches!(tokens.get(index), Some(TokenTree::Punct(punct)) if punct.as_char() == mark);
    let mut index = 0;
    while let Some(token) = tokens.get(index) {
        match token {
            TokenTree::Group(group) => scan(group.stream(), findings),
            TokenTree::Ident(ident) => {
                let mut path = vec![ident.to_string()];
                while let (true, true, Some(TokenTree::Ident(next))) =
                    (is_mark(index + 1, ':'), is_mark(index + 2, ':'), tokens.get(index + 3))
                {
                    path.push(next.to_string());
                    index += 3;
                }
                let is_macro = is_mark(index + 1, '!')
                    && matches!(tokens.get(index + 2), Some(TokenTree::Group(group)) if group.delimiter() != Delimiter::None);
                let last = path.last().map(String::as_str).unwrap_or_default();
                if is_macro && FORBIDDEN_MACROS.contains(&last) {
                    findings.push((line(ident.span()), format!("{last}!")));
                }
                if path == ["unsafe"] {
                    findings.push((line(ident.span()), "unsafe".to_owned()));
                }
                let is_mutable = matches!(tokens.get(index + 1), Some(TokenTree::Ident(next)) if next == "mut");
                if path == ["static"] && is_mutable {
                    findings.push((line(ident.span()), "static mut".to_owned()));
                }
                // `use` with a group behind the path was taken apart above, name by name.
                let has_group = is_mark(index + 1, ':') && matches!(tokens.get(index + 3), Some(TokenTree::Group(_)));
                if path.len() > 1
                    && !(has_group && path == ["std", "net"])
                    && let Some(what) = forbidden(&path)
                {
                    findings.push((line(ident.span()), what));
                }
            }
            _ => {}
        }
        index += 1;
    }
}

/// What is wrong with naming this path, if anything.
fn forbidden(path: &[String]) -> Option<String> {
    let text = path.join("::");
    let below = |parent: &str| text == parent || text.starts_with(&format!("{parent}::"));
    let root = path.first().map(String::as_str).unwrap_or_default();
    let is_address = |path: &[String]| path.get(2).is_some_and(|name| ADDRESSES.contains(&name.as_str()));
    let wrong = FORBIDDEN_PATHS.iter().any(|path| below(path))
        || FORBIDDEN_CRATES.contains(&root)
        || (below("std::net") && !is_address(path))
        // Whatever the type is called here: no type of ours has a function of this name.
        || (path.len() > 1 && path.last().is_some_and(|last| last == "now"));
    wrong.then_some(text)
}

fn line(span: Span) -> usize {
    span.start().line
}
