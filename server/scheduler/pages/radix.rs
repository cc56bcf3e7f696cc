//! RadixTree: which pages hold the K/V of which token prefix.
//!
//! ```text
//!   root ── [a b | c d | e f] ── [g h]          page_size 2: an edge is whole pages, and a node's children differ in
//!                     │                         their first page. A lookup compares tokens, not hashes of them.
//!                     └── [x y | z z]
//! ```
//! A table that uses a prefix locks the path to its last node. So an unlocked node has no locked descendant, every
//! unlocked page can be evicted (leaves first, the least recently used first, from its end), and
//! `cached == locked + evictable`. Knows nothing of sequences or the pool: leases come in and go out by value.
use std::collections::{BTreeSet, HashMap};

use minisgl_kernels::{PageId, TokenId};

use super::pool::PageLease;

/// A node's place in the arena. Valid while the node, or one below it, is locked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct NodeId(u32);

/// The empty prefix. Never evicted.
pub(super) const ROOT: NodeId = NodeId(0);

#[derive(Debug)]
struct Node {
    parent: NodeId,
    /// `[pages * page_size]`
    tokens: Vec<TokenId>,
    pages: Vec<PageLease>,
    /// By the first page's tokens.
    children: HashMap<Box<[TokenId]>, NodeId>,
    /// Tables whose path goes through here.
    locks: usize,
    /// The clock at its last use.
    used: u64,
}

/// What a lookup found. Read-only, and stale as soon as the tree changes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Hit {
    /// Its pages, from the root on.
    pub(crate) pages: usize,
    /// Those of them that nobody has locked yet: locking takes them from what can be evicted.
    pub(crate) unlocked: usize,
    node: NodeId,
    /// How many of `node`'s pages are part of it.
    within: usize,
}

/// The tree. See the module's page.
#[derive(Debug)]
pub(super) struct RadixTree {
    page_size: usize,
    nodes: Vec<Node>,
    /// Places in `nodes` to use again.
    vacant: Vec<NodeId>,
    /// `(used, node)` of the leaves that nobody locks: who goes first.
    idle: BTreeSet<(u64, NodeId)>,
    clock: u64,
    cached: usize,
    locked: usize,
}

impl RadixTree {
    /// An empty tree.
    pub(super) fn new(page_size: usize) -> Self {
        let root =
            Node { parent: ROOT, tokens: Vec::new(), pages: Vec::new(), children: HashMap::new(), locks: 0, used: 0 };
        Self { page_size, nodes: vec![root], vacant: Vec::new(), idle: BTreeSet::new(), clock: 0, cached: 0, locked: 0 }
    }

    /// Pages that it owns.
    pub(super) fn cached(&self) -> usize {
        self.cached
    }

    /// Pages that it owns and could give up.
    pub(super) fn evictable(&self) -> usize {
        self.cached - self.locked
    }

    /// The longest prefix of `tokens`, in whole pages. Changes nothing.
    pub(super) fn lookup(&self, tokens: &[TokenId]) -> Hit {
        let mut hit = Hit { pages: 0, unlocked: 0, node: ROOT, within: 0 };
        let mut rest = tokens;
        while let Some(child) = self.child(hit.node, rest) {
            let node = self.node(child);
            let within = common_pages(&node.tokens, rest, self.page_size);
            hit.node = child;
            hit.within = within;
            hit.pages += within;
            if node.locks == 0 {
                hit.unlocked += within;
            }
            if within < node.pages.len() {
                break;
            }
            rest = &rest[within * self.page_size..];
        }
        hit
    }

    /// Locks a fresh hit's path and no page beyond it (an edge is cut where the hit ends). Returns the path's end, to be
    /// given to `unlock`, and the hit's pages.
    pub(super) fn lock(&mut self, hit: Hit) -> (NodeId, Vec<PageId>) {
        let end =
            if hit.within < self.node(hit.node).pages.len() { self.split(hit.node, hit.within) } else { hit.node };
        for id in self.path(end) {
            let node = self.node_mut(id);
            node.locks += 1;
            if node.locks == 1 {
                let (used, pages, leaf) = (node.used, node.pages.len(), node.children.is_empty());
                self.locked += pages;
                if leaf {
                    self.idle.remove(&(used, id));
                }
            }
        }
        (end, self.pages_to(end))
    }

    /// Takes one lock from the path, which is then the most recently used.
    pub(super) fn unlock(&mut self, end: NodeId) {
        self.clock += 1;
        let clock = self.clock;
        for id in self.path(end) {
            let node = self.node_mut(id);
            node.locks = node.locks.checked_sub(1).expect("a lock for each unlock");
            node.used = clock;
            if node.locks == 0 {
                let (pages, leaf) = (node.pages.len(), node.children.is_empty());
                self.locked -= pages;
                if leaf && id != ROOT {
                    self.idle.insert((clock, id));
                }
            }
        }
    }

    /// Whether something behind a path's end already begins as `tokens` does, in its first page.
    pub(super) fn continues(&self, end: NodeId, tokens: &[TokenId]) -> bool {
        self.child(end, tokens).is_some()
    }

    /// Appends `tokens` (whole pages, a lease each) behind a locked path's end, where nothing continues like them, and
    /// locks them too. Returns the new end.
    pub(super) fn extend(&mut self, end: NodeId, tokens: &[TokenId], leases: Vec<PageLease>) -> NodeId {
        let new_end = self.attach(end, tokens, leases, 1);
        if new_end != end {
            let node = self.node_mut(new_end);
            node.locks = 1;
            let (used, pages) = (node.used, node.pages.len());
            self.locked += pages;
            self.idle.remove(&(used, new_end));
        }
        new_end
    }

    /// Adds `tokens` (whole pages, a lease each) behind a locked path's end, unlocked. Returns the leases of pages whose
    /// like it already has.
    pub(super) fn insert(&mut self, end: NodeId, tokens: &[TokenId], leases: Vec<PageLease>) -> Vec<PageLease> {
        self.clock += 1;
        let mut leases = leases.into_iter();
        let (mut at, mut rest) = (end, tokens);
        let mut duplicates = Vec::new();
        while let Some(child) = self.child(at, rest) {
            let node = self.node(child);
            let within = common_pages(&node.tokens, rest, self.page_size);
            let inside = within < node.pages.len();
            duplicates.extend(leases.by_ref().take(within));
            rest = &rest[within * self.page_size..];
            at = if inside && !rest.is_empty() { self.split(child, within) } else { child };
            self.touch(at);
        }
        if !rest.is_empty() {
            self.attach(at, rest, leases.collect(), usize::from(at == end));
        }
        duplicates
    }

    /// Gives up one page: the last of the least recently used leaf that nobody locks.
    pub(super) fn evict(&mut self) -> Option<PageLease> {
        let &(_, id) = self.idle.first()?;
        if self.node(id).pages.len() == 1 {
            return self.remove(id).pop();
        }
        let page_size = self.page_size;
        let node = self.node_mut(id);
        let lease = node.pages.pop();
        node.tokens.truncate(node.tokens.len() - page_size);
        self.cached -= 1;
        lease
    }

    /// Gives up what of a path (from its end upwards) nobody locks and nothing continues.
    pub(super) fn forget(&mut self, end: NodeId) -> Vec<PageLease> {
        let mut leases = Vec::new();
        let mut id = end;
        while id != ROOT && self.node(id).locks == 0 && self.node(id).children.is_empty() {
            let parent = self.node(id).parent;
            leases.extend(self.remove(id));
            id = parent;
        }
        leases
    }

    /// The pages from the root to the end of `node`.
    pub(super) fn pages_to(&self, node: NodeId) -> Vec<PageId> {
        let mut path = self.path(node);
        path.reverse();
        path.into_iter().flat_map(|id| self.node(id).pages.iter().map(PageLease::page)).collect()
    }

    fn node(&self, id: NodeId) -> &Node {
        &self.nodes[id.0 as usize]
    }

    fn node_mut(&mut self, id: NodeId) -> &mut Node {
        &mut self.nodes[id.0 as usize]
    }

    /// The child that begins as `tokens` does, in its first page.
    fn child(&self, at: NodeId, tokens: &[TokenId]) -> Option<NodeId> {
        self.node(at).children.get(tokens.get(..self.page_size)?).copied()
    }

    /// From `end` up to the root, both included.
    fn path(&self, end: NodeId) -> Vec<NodeId> {
        let mut path = vec![end];
        let mut id = end;
        while id != ROOT {
            id = self.node(id).parent;
            path.push(id);
        }
        path
    }

    fn touch(&mut self, id: NodeId) {
        let clock = self.clock;
        let used = std::mem::replace(&mut self.node_mut(id).used, clock);
        if self.idle.remove(&(used, id)) {
            self.idle.insert((clock, id));
        }
    }

    /// Whether pages may join the node itself instead of a child: nothing continues it, and no path but those `mine` ends there.
    fn can_append(&self, at: NodeId, mine: usize) -> bool {
        at != ROOT && self.node(at).children.is_empty() && self.node(at).locks == mine
    }

    /// Puts pages behind `at`, in the node itself where that is possible. `mine` of the locks at `at` are the caller's.
    /// A new node is an unlocked, most recently used leaf.
    fn attach(&mut self, at: NodeId, tokens: &[TokenId], leases: Vec<PageLease>, mine: usize) -> NodeId {
        assert_eq!(tokens.len(), leases.len() * self.page_size, "a lease a page");
        self.cached += leases.len();
        if self.can_append(at, mine) {
            self.locked += mine * leases.len();
            let node = self.node_mut(at);
            node.tokens.extend_from_slice(tokens);
            node.pages.extend(leases);
            return at;
        }
        let node = Node {
            parent: at,
            tokens: tokens.to_vec(),
            pages: leases,
            children: HashMap::new(),
            locks: 0,
            used: self.clock,
        };
        let id = self.place(node);
        let used = self.node(at).used;
        self.idle.remove(&(used, at));
        self.adopt(at, id);
        self.idle.insert((self.clock, id));
        id
    }

    /// Cuts a node's edge after `pages` pages. The new upper part is returned; the lower keeps the id, so that the paths
    /// that end there still do.
    fn split(&mut self, id: NodeId, pages: usize) -> NodeId {
        let page_size = self.page_size;
        let node = self.node_mut(id);
        assert!(0 < pages && pages < node.pages.len(), "a cut inside an edge");
        let lower_tokens = node.tokens.split_off(pages * page_size);
        let lower_pages = node.pages.split_off(pages);
        let upper = Node {
            parent: node.parent,
            tokens: std::mem::replace(&mut node.tokens, lower_tokens),
            pages: std::mem::replace(&mut node.pages, lower_pages),
            children: HashMap::new(),
            locks: node.locks,
            used: node.used,
        };
        let parent = upper.parent;
        let upper = self.place(upper);
        self.adopt(parent, upper); // in the place of `id`, whose first page it has
        self.adopt(upper, id);
        upper
    }

    fn adopt(&mut self, parent: NodeId, child: NodeId) {
        let key: Box<[TokenId]> = self.node(child).tokens[..self.page_size].into();
        self.node_mut(child).parent = parent;
        self.node_mut(parent).children.insert(key, child);
    }

    fn place(&mut self, node: Node) -> NodeId {
        if let Some(id) = self.vacant.pop() {
            *self.node_mut(id) = node;
            return id;
        }
        let id = NodeId(u32::try_from(self.nodes.len()).expect("no more nodes than pages"));
        self.nodes.push(node);
        id
    }

    /// Removes an unlocked leaf.
    fn remove(&mut self, id: NodeId) -> Vec<PageLease> {
        let node = self.node_mut(id);
        assert!(node.locks == 0 && node.children.is_empty(), "only unlocked leaves go");
        let (parent, used) = (node.parent, node.used);
        let tokens = std::mem::take(&mut node.tokens);
        let leases = std::mem::take(&mut node.pages);
        self.cached -= leases.len();
        self.idle.remove(&(used, id));
        self.vacant.push(id);
        let page_size = self.page_size;
        let parent_node = self.node_mut(parent);
        parent_node.children.remove(&tokens[..page_size]);
        if parent != ROOT && parent_node.locks == 0 && parent_node.children.is_empty() {
            let used = parent_node.used;
            self.idle.insert((used, parent));
        }
        leases
    }

    /// Everything that this module's page claims. `ends` are the ends of all locked paths.
    pub(super) fn check_integrity(&self, ends: &[NodeId]) -> Result<Vec<PageId>, String> {
        let mut locks = vec![0; self.nodes.len()];
        for id in ends.iter().flat_map(|&end| self.path(end)) {
            locks[id.0 as usize] += 1;
        }
        let (mut pages, mut locked, mut idle) = (Vec::new(), 0, BTreeSet::new());
        let mut reached = 0;
        let mut open = vec![ROOT];
        while let Some(id) = open.pop() {
            let node = self.node(id);
            reached += 1;
            if node.locks != locks[id.0 as usize] {
                return Err(format!("{id:?} has {} locks, {} paths", node.locks, locks[id.0 as usize]));
            }
            if node.tokens.len() != node.pages.len() * self.page_size || (node.pages.is_empty() && id != ROOT) {
                return Err(format!("{id:?} has {} tokens in {} pages", node.tokens.len(), node.pages.len()));
            }
            pages.extend(node.pages.iter().map(PageLease::page));
            if node.locks > 0 {
                locked += node.pages.len();
            } else if node.children.is_empty() && id != ROOT {
                idle.insert((node.used, id));
            }
            for (key, &child) in &node.children {
                if self.node(child).parent != id || self.node(child).tokens.get(..self.page_size) != Some(key) {
                    return Err(format!("{child:?} is not the child of {id:?} that its key says"));
                }
                if self.node(child).locks > node.locks && id != ROOT {
                    return Err(format!("{child:?} is locked more often than its parent {id:?}"));
                }
                open.push(child);
            }
        }
        if reached + self.vacant.len() != self.nodes.len() {
            return Err(format!("{reached} nodes reached, {} vacant of {}", self.vacant.len(), self.nodes.len()));
        }
        if (pages.len(), locked) != (self.cached, self.locked) {
            let counted = (self.cached, self.locked);
            return Err(format!("(cached, locked) pages: counted {counted:?}, found {:?}", (pages.len(), locked)));
        }
        if idle != self.idle {
            return Err(format!("unlocked leaves: listed {:?}, found {idle:?}", self.idle));
        }
        Ok(pages)
    }
}

/// How many whole pages `a` and `b` begin with alike.
fn common_pages(a: &[TokenId], b: &[TokenId], page_size: usize) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a == b).count() / page_size
}
