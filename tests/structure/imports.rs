//! Which file of a crate names what is defined in which other.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};

use proc_macro2::{TokenStream, TokenTree};
use syn::visit::{self, Visit};

/// A path of modules from the crate's root: `["store", "disk"]`.
type Module = Vec<String>;

/// The modules of a crate.
#[derive(Default)]
pub struct Crate {
    modules: BTreeMap<Module, Names>,
}

/// What one module holds.
#[derive(Default)]
struct Names {
    file: PathBuf,
    /// Names that it takes from elsewhere, and from where.
    uses: BTreeMap<String, Vec<String>>,
    /// Modules of which it takes all names.
    globs: Vec<Vec<String>>,
    /// The paths that its code names.
    paths: BTreeSet<Vec<String>>,
}

impl Crate {
    /// Reads the files below `src`, from its root on.
    pub fn read(src: &Path) -> Crate {
        let mut read = Crate::default();
        for root in ["lib.rs", "main.rs"] {
            let file = src.join(root);
            if file.exists() {
                read.file(&file, src, Module::new());
            }
        }
        read
    }

    fn file(&mut self, file: &Path, folder: &Path, module: Module) {
        let text = fs::read_to_string(file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        let syntax = syn::parse_file(&text).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        self.items(&syntax.items, file, folder, module);
    }

    fn items(&mut self, items: &[syn::Item], file: &Path, folder: &Path, module: Module) {
        let mut names = Names { file: file.to_owned(), ..Names::default() };
        for item in items {
            match item {
                _ if is_for_tests(attributes(item)) => {}
                syn::Item::Mod(inner) => {
                    let name = inner.ident.to_string();
                    let child = [module.clone(), vec![name.clone()]].concat();
                    let below = folder.join(&name);
                    match &inner.content {
                        Some((_, items)) => self.items(items, file, &below, child),
                        // A file of another crate, by its path: that crate's own.
                        None if inner.attrs.iter().any(|attribute| attribute.path().is_ident("path")) => {}
                        None if below.with_extension("rs").exists() => {
                            self.file(&below.with_extension("rs"), &below, child)
                        }
                        None => self.file(&below.join("mod.rs"), &below, child),
                    }
                }
                syn::Item::Use(item) => take(&item.tree, Vec::new(), &mut names),
                item => Paths(&mut names).visit_item(item),
            }
        }
        // The halves of a crate with a library and a program are one module tree here.
        let here = self.modules.entry(module).or_default();
        here.file = names.file;
        here.uses.extend(names.uses);
        here.globs.extend(names.globs);
        here.paths.extend(names.paths);
    }

    /// The module that defines what `path`, as written in `module`, names; none if that is not of
    /// this crate.
    fn resolve(
        &self,
        module: &Module,
        path: &[String],
        is_used: bool,
        depth: usize,
    ) -> Option<(Module, String)> {
        let (first, rest) = path.split_first()?;
        let depth = depth.checked_sub(1)?;
        let (mut at, mut rest) = match first.as_str() {
            "crate" => (Module::new(), rest),
            "self" => (module.clone(), rest),
            "super" => (module[..module.len().checked_sub(1)?].to_vec(), rest),
            _ => (module.clone(), path),
        };
        while let Some((name, after)) = rest.split_first() {
            if name == "super" {
                at.pop()?;
            } else if self.modules.contains_key(&[at.clone(), vec![name.clone()]].concat()) {
                at.push(name.clone());
            } else if let Some(target) = self.modules.get(&at)?.uses.get(name) {
                return self.resolve(&at, &[target.as_slice(), after].concat(), true, depth);
            } else {
                let globs = &self.modules[&at].globs;
                let globbed = globs.iter().find_map(|glob| {
                    let found = self.resolve(&at, &[glob.as_slice(), rest].concat(), true, depth)?;
                    (found.0 != at).then_some(found)
                });
                // What a `use` takes from nowhere in this crate is another crate's.
                let is_outer = is_used && at == *module;
                return globbed.or((!is_outer).then(|| (at, name.clone())));
            }
            rest = after;
        }
        None
    }

    /// File → file → the names it takes from it.
    fn arrows(&self) -> BTreeMap<&Path, BTreeMap<&Path, BTreeSet<String>>> {
        let mut arrows: BTreeMap<&Path, BTreeMap<&Path, BTreeSet<String>>> = BTreeMap::new();
        for (module, names) in &self.modules {
            for path in &names.paths {
                let Some((defines, name)) = self.resolve(module, path, false, 16) else { continue };
                let file = &self.modules[&defines].file;
                if *file != names.file {
                    arrows.entry(&names.file).or_default().entry(file).or_default().insert(name);
                }
            }
        }
        arrows
    }

    /// The groups of files that import each other, each with what ties it.
    pub fn circles(&self) -> Vec<String> {
        let arrows = self.arrows();
        let reached: BTreeMap<&Path, BTreeSet<&Path>> = arrows
            .keys()
            .map(|from| {
                let (mut seen, mut next) = (BTreeSet::new(), vec![*from]);
                while let Some(file) = next.pop() {
                    let targets = arrows.get(file).into_iter().flat_map(BTreeMap::keys);
                    next.extend(targets.filter(|target| seen.insert(**target)));
                }
                (*from, seen)
            })
            .collect();
        let together = |a: &Path, b: &Path| {
            reached.get(a).is_some_and(|seen| seen.contains(b))
                && reached.get(b).is_some_and(|seen| seen.contains(a))
        };
        let mut told = BTreeSet::new();
        let mut circles = Vec::new();
        for from in arrows.keys().filter(|file| together(file, file)) {
            let circle: Vec<&Path> = arrows.keys().copied().filter(|file| together(from, file)).collect();
            if !told.insert(circle[0]) {
                continue;
            }
            let mut text = format!("{} files", circle.len());
            for a in &circle {
                for (b, names) in arrows[a].iter().filter(|(b, _)| together(a, b)) {
                    let names: Vec<&str> = names.iter().map(String::as_str).collect();
                    write!(text, "\n  {} -> {}: {}", a.display(), b.display(), names.join(", "))
                        .expect("a string");
                }
            }
            circles.push(text);
        }
        circles
    }
}

fn take(tree: &syn::UseTree, mut prefix: Vec<String>, names: &mut Names) {
    match tree {
        syn::UseTree::Path(path) => {
            prefix.push(path.ident.to_string());
            take(&path.tree, prefix, names);
        }
        syn::UseTree::Group(group) => group.items.iter().for_each(|tree| take(tree, prefix.clone(), names)),
        syn::UseTree::Glob(_) => names.globs.push(prefix),
        syn::UseTree::Name(name) if name.ident == "self" => {
            let last = prefix.last().expect("a path before `self`").clone();
            names.uses.insert(last, prefix);
        }
        syn::UseTree::Name(name) => {
            prefix.push(name.ident.to_string());
            names.uses.insert(name.ident.to_string(), prefix);
        }
        syn::UseTree::Rename(rename) => {
            if rename.ident != "self" {
                prefix.push(rename.ident.to_string());
            }
            names.uses.insert(rename.rename.to_string(), prefix);
        }
    }
}

/// Collects the paths in code, macros' arguments included.
struct Paths<'a>(&'a mut Names);

impl<'ast> Visit<'ast> for Paths<'_> {
    fn visit_item_use(&mut self, item: &'ast syn::ItemUse) {
        take(&item.tree, Vec::new(), self.0);
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        self.0.paths.insert(path.segments.iter().map(|segment| segment.ident.to_string()).collect());
        visit::visit_path(self, path);
    }

    fn visit_macro(&mut self, call: &'ast syn::Macro) {
        self.visit_path(&call.path);
        self.tokens(call.tokens.clone());
    }
}

impl Paths<'_> {
    fn tokens(&mut self, tokens: TokenStream) {
        let mut path = Vec::new();
        let mut colons = 0;
        for token in tokens {
            match token {
                TokenTree::Ident(ident) => {
                    if colons != 2 {
                        self.0.paths.insert(std::mem::take(&mut path));
                    }
                    path.push(ident.to_string());
                    colons = 0;
                }
                TokenTree::Punct(punct) if punct.as_char() == ':' => colons += 1,
                token => {
                    if let TokenTree::Group(group) = token {
                        self.tokens(group.stream());
                    }
                    self.0.paths.insert(std::mem::take(&mut path));
                    colons = 0;
                }
            }
        }
        self.0.paths.insert(path);
    }
}

fn is_for_tests(attributes: &[syn::Attribute]) -> bool {
    attributes.iter().any(|attribute| {
        attribute.path().is_ident("cfg")
            && attribute.parse_args::<syn::Path>().is_ok_and(|condition| condition.is_ident("test"))
    })
}

fn attributes(item: &syn::Item) -> &[syn::Attribute] {
    match item {
        syn::Item::Mod(item) => &item.attrs,
        syn::Item::Fn(item) => &item.attrs,
        syn::Item::Use(item) => &item.attrs,
        syn::Item::Impl(item) => &item.attrs,
        _ => &[],
    }
}
