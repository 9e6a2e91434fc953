//! A reader for the part of BTF that declares maps (Linux: Documentation/bpf/btf.rst, include/uapi/linux/btf.h).
//!
//! A map is a variable in the data section `.maps`; its type is a struct whose members say what it is: `type` and `max_entries` are
//! pointers to arrays whose length is the number, `key` and `value` are pointers to the types. Reads little-endian BTF only.

use crate::object::Map;
use anyhow::{Context as _, Result, bail};
use std::collections::BTreeMap;

const MAGIC: u16 = 0xeb9f;

const KIND_INT: u32 = 1;
const KIND_PTR: u32 = 2;
const KIND_ARRAY: u32 = 3;
const KIND_STRUCT: u32 = 4;
const KIND_UNION: u32 = 5;
const KIND_ENUM: u32 = 6;
const KIND_FUNC_PROTO: u32 = 13;
const KIND_VAR: u32 = 14;
const KIND_DATASEC: u32 = 15;
const KIND_DECL_TAG: u32 = 17;
const KIND_ENUM64: u32 = 19;

/// The types of an object.
pub(crate) struct Btf<'a> {
    strings: &'a [u8],
    /// Type 0 is `void`; the first of these is type 1.
    types: Vec<Type<'a>>,
}

struct Type<'a> {
    name: u32,
    kind: u32,
    /// Type id, where the kind refers to another type; else its size.
    target: u32,
    /// What follows the common part: members, array description, section entries.
    rest: &'a [u8],
}

impl<'a> Btf<'a> {
    /// Reads the contents of a `.BTF` section.
    pub(crate) fn parse(section: &'a [u8]) -> Result<Self> {
        let magic = section.get(..2).context("BTF is shorter than its header")?;
        if magic != MAGIC.to_le_bytes() {
            bail!("BTF does not start with its magic number");
        }
        let header = u32_at(section, 4)?;
        let part = |offset: u32, length: u32| {
            let start = (header + offset) as usize;
            section.get(start..start + length as usize).context("a part of BTF lies outside its section")
        };
        let mut rest = part(u32_at(section, 8)?, u32_at(section, 12)?)?;
        let strings = part(u32_at(section, 16)?, u32_at(section, 20)?)?;
        let mut types = Vec::new();
        while !rest.is_empty() {
            let info = u32_at(rest, 4)?;
            let (kind, count) = ((info >> 24) & 0x1f, (info & 0xffff) as usize);
            let tail = match kind {
                KIND_INT | KIND_VAR | KIND_DECL_TAG => 4,
                KIND_ARRAY => 12,
                KIND_STRUCT | KIND_UNION | KIND_DATASEC | KIND_ENUM64 => 12 * count,
                KIND_ENUM | KIND_FUNC_PROTO => 8 * count,
                // Pointers, typedefs, qualifiers, forward declarations, functions, floats, type tags.
                _ => 0,
            };
            let whole = rest.get(..12 + tail).context("a BTF type is cut short")?;
            types.push(Type { name: u32_at(rest, 0)?, kind, target: u32_at(rest, 8)?, rest: &whole[12..] });
            rest = &rest[12 + tail..];
        }
        Ok(Self { strings, types })
    }

    /// The maps the object declares, by name.
    pub(crate) fn maps(&self) -> Result<BTreeMap<String, Map>> {
        let mut maps = BTreeMap::new();
        for section in &self.types {
            if section.kind != KIND_DATASEC || self.string(section.name)? != ".maps" {
                continue;
            }
            for entry in section.rest.chunks_exact(12) {
                let variable = self.get(u32_at(entry, 0)?)?;
                maps.insert(self.string(variable.name)?.to_owned(), self.map(variable.target)?);
            }
        }
        Ok(maps)
    }

    fn map(&self, id: u32) -> Result<Map> {
        let mut map = Map::default();
        for member in self.get(id)?.rest.chunks_exact(12) {
            let kind = u32_at(member, 4)?;
            match self.string(u32_at(member, 0)?)? {
                "type" => map.kind = Some(self.number(kind)?),
                "max_entries" => map.max_entries = Some(self.number(kind)?),
                "key" => map.key = Some(self.pointee(kind)?),
                "value" => map.value = Some(self.pointee(kind)?),
                _ => {}
            }
        }
        Ok(map)
    }

    /// A number written as a pointer to an array of that length.
    fn number(&self, pointer: u32) -> Result<u32> {
        let array = self.get(self.get(pointer)?.target)?;
        if array.kind != KIND_ARRAY {
            bail!("a number in a map declaration is not written as an array length");
        }
        u32_at(array.rest, 8)
    }

    fn pointee(&self, pointer: u32) -> Result<String> {
        self.describe(self.get(pointer)?.target)
    }

    fn describe(&self, id: u32) -> Result<String> {
        if id == 0 {
            return Ok("()".to_owned());
        }
        let found = self.get(id)?;
        match found.kind {
            KIND_ARRAY => Ok(format!("[{}; {}]", self.describe(u32_at(found.rest, 0)?)?, u32_at(found.rest, 8)?)),
            KIND_PTR => Ok(format!("*{}", self.describe(found.target)?)),
            _ => Ok(readable(self.string(found.name)?)),
        }
    }

    fn get(&self, id: u32) -> Result<&Type<'a>> {
        let index = (id as usize).checked_sub(1);
        index.and_then(|index| self.types.get(index)).with_context(|| format!("BTF names type {id}, which it does not have"))
    }

    fn string(&self, offset: u32) -> Result<&'a str> {
        let rest = self.strings.get(offset as usize..).context("a BTF name lies outside the string table")?;
        let end = rest.iter().position(|&byte| byte == 0).context("a BTF name has no end")?;
        std::str::from_utf8(&rest[..end]).context("a BTF name is not UTF-8")
    }
}

/// Undoes bpf-linker's spelling of what the kernel does not allow in a name: `Key_3C__5B_u8_3B__20_4_5D__3E_` is `Key<[u8; 4]>`.
fn readable(name: &str) -> String {
    let mut text = String::new();
    let mut rest = name;
    while let Some(start) = rest.find('_') {
        text.push_str(&rest[..start]);
        let hex = rest.get(start + 1..start + 3).filter(|_| rest.get(start + 3..start + 4) == Some("_"));
        // Only punctuation is ever escaped, so that a name such as `a_12_b` stays as it is.
        let escaped =
            hex.and_then(|hex| u8::from_str_radix(hex, 16).ok()).map(char::from).filter(|c| c.is_ascii_punctuation() || *c == ' ');
        let (character, length) = escaped.map_or(('_', 1), |character| (character, 4));
        text.push(character);
        rest = &rest[start + length..];
    }
    text + rest
}

fn u32_at(bytes: &[u8], offset: usize) -> Result<u32> {
    let bytes = bytes.get(offset..offset + 4).context("BTF is cut short")?;
    Ok(u32::from_le_bytes(bytes.try_into().expect("the slice is four bytes")))
}

#[cfg(test)]
mod tests {
    use super::readable;

    #[test]
    fn names_of_generic_types_become_readable() {
        assert_eq!(readable("Key_3C__5B_u8_3B__20_4_5D__3E_"), "Key<[u8; 4]>");
        assert_eq!(readable("pod_mask"), "pod_mask");
        assert_eq!(readable("a_61_b"), "a_61_b");
    }
}
