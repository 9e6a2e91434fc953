//! Reading a built eBPF object: its programs, functions, maps and what must not be in it.
//!
//! Reads bytes only; it loads nothing into a kernel. The numbers are those of the object: the verifier may drop dead code, never add any.

use crate::btf::Btf;
use anyhow::{Context as _, Result, bail};
use object::{Object as _, ObjectSection as _, ObjectSymbol as _, SymbolKind};
use std::collections::BTreeMap;
use std::fmt;

/// Bytes of one eBPF instruction (a 64-bit load counts as two, as it does for the kernel).
const INSTRUCTION: u64 = 8;

/// What an eBPF object holds.
#[derive(Debug)]
pub(crate) struct Object {
    /// Bytes of the file.
    pub(crate) size: usize,
    /// Entry points by name.
    pub(crate) programs: BTreeMap<String, Program>,
    /// Functions called by programs (bpf-to-bpf calls), by name: instructions.
    functions: BTreeMap<String, u64>,
    /// Maps by name.
    pub(crate) maps: BTreeMap<String, Map>,
    /// A section of pre-BTF map definitions: libbpf 1.0 and with it bpftool refuse the whole object.
    pub(crate) has_legacy_maps: bool,
}

/// An entry point.
#[derive(Debug)]
pub(crate) struct Program {
    /// Its section, which says of which type it is: `xdp.frags`, `classifier`, …
    pub(crate) section: String,
    /// Instructions, without those of the functions it calls.
    instructions: u64,
}

/// A map as its BTF declares it. A field the declaration leaves out is `None`.
#[derive(Debug, Default)]
pub(crate) struct Map {
    /// `enum bpf_map_type`.
    pub(crate) kind: Option<u32>,
    /// Name of the key's type.
    pub(crate) key: Option<String>,
    /// Name of the value's type.
    pub(crate) value: Option<String>,
    /// Most entries.
    pub(crate) max_entries: Option<u32>,
}

impl Object {
    /// Reads an object file.
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self> {
        let file = object::File::parse(bytes).context("not an ELF file")?;
        let mut found = Self {
            size: bytes.len(),
            programs: BTreeMap::new(),
            functions: BTreeMap::new(),
            maps: BTreeMap::new(),
            has_legacy_maps: file.section_by_name("maps").is_some(),
        };
        for symbol in file.symbols().filter(|symbol| symbol.kind() == SymbolKind::Text && symbol.size() > 0) {
            let name = symbol.name().context("a function's name is not UTF-8")?.to_owned();
            let section = symbol.section_index().context("a function is in no section")?;
            let section = file.section_by_index(section)?.name()?.to_owned();
            let instructions = symbol.size() / INSTRUCTION;
            if section == ".text" {
                found.functions.insert(name, instructions);
            } else {
                found.programs.insert(name, Program { section, instructions });
            }
        }
        if found.programs.is_empty() {
            bail!("it holds no program");
        }
        let btf = file.section_by_name(".BTF").context("it has no .BTF section: was it linked with --btf?")?;
        found.maps = Btf::parse(btf.data()?)?.maps()?;
        Ok(found)
    }
}

impl fmt::Display for Object {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "programs")?;
        for (name, program) in &self.programs {
            writeln!(f, "  {:>6} instructions  {name:<16} {}", program.instructions, program.section)?;
        }
        if !self.functions.is_empty() {
            writeln!(f, "functions")?;
        }
        for (name, instructions) in &self.functions {
            writeln!(f, "  {instructions:>6} instructions  {}", demangled(name))?;
        }
        writeln!(f, "maps")?;
        for (name, map) in &self.maps {
            let word = |word: &Option<String>| word.clone().unwrap_or_else(|| "-".into());
            let kind = map.kind.map_or_else(|| "-".into(), map_type);
            let entries = map.max_entries.map_or_else(|| "-".into(), |entries| entries.to_string());
            writeln!(f, "  {name:<16} {kind:<14} {entries:>6} entries, {} -> {}", word(&map.key), word(&map.value))?;
        }
        if self.has_legacy_maps {
            writeln!(f, "  and a legacy \"maps\" section: the agent loads this object, bpftool refuses it")?;
        }
        Ok(())
    }
}

/// A mangled name as Rust writes it, without the hash and the names of our crates.
fn demangled(name: &str) -> String {
    let full = format!("{:#}", rustc_demangle::demangle(name));
    full.replace("overlay_ebpf::", "").replace("overlay_common::", "")
}

/// bpftool's word for a map type (`enum bpf_map_type`, include/uapi/linux/bpf.h); the number where this table ends.
fn map_type(kind: u32) -> String {
    const NAMES: [&str; 28] = [
        "unspec",
        "hash",
        "array",
        "prog_array",
        "perf_event_array",
        "percpu_hash",
        "percpu_array",
        "stack_trace",
        "cgroup_array",
        "lru_hash",
        "lru_percpu_hash",
        "lpm_trie",
        "array_of_maps",
        "hash_of_maps",
        "devmap",
        "sockmap",
        "cpumap",
        "xskmap",
        "sockhash",
        "cgroup_storage",
        "reuseport_sockarray",
        "percpu_cgroup_storage",
        "queue",
        "stack",
        "sk_storage",
        "devmap_hash",
        "struct_ops",
        "ringbuf",
    ];
    NAMES.get(kind as usize).map_or_else(|| kind.to_string(), |name| (*name).to_owned())
}
