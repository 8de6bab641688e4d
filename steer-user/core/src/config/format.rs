//! Detection of files that are not TOML, from their first lines.

/// Returns the first line that shows a text is not TOML, and the format found.
pub(super) fn of_text(text: &str) -> Option<(usize, &'static str)> {
    if let Some(at) = text.find('\0') {
        return Some((line(text, at), "a binary file"));
    }
    let mut lines = text.lines().enumerate();
    let (number, first) = lines.find_map(|(number, line)| {
        let line = line.trim().trim_start_matches('\u{feff}');
        (!line.is_empty() && !line.starts_with(['#', ';'])).then_some((number + 1, line))
    })?;
    let kind = match first {
        _ if first.starts_with('{') => "JSON",
        _ if first.starts_with('[') && (first.contains('{') || first == "[") => "JSON",
        _ if first.starts_with("-----BEGIN") => "a certificate or a key",
        _ if first.starts_with('<') => "HTML or XML",
        _ if is_yaml(first) => "YAML",
        _ if is_haproxy(first) => "a configuration of HAProxy",
        _ if first.ends_with('{') && !first.contains('=') => "a configuration of another program",
        _ => return None,
    };
    Some((number, kind))
}

/// Returns the position where bytes turn out not to be text, and the format found.
pub(super) fn of_bytes(bytes: &[u8]) -> Option<(usize, String)> {
    let error = std::str::from_utf8(bytes).err()?;
    let (good, rest) = bytes.split_at(error.valid_up_to());
    let line = 1 + good.iter().filter(|byte| **byte == b'\n').count();
    let what = match (bytes, rest.first()) {
        ([0xff, 0xfe, ..] | [0xfe, 0xff, ..], _) => {
            return Some((1, "the file is UTF-16".to_owned()));
        }
        _ if bytes.contains(&0) => return Some((1, "this is a binary file".to_owned())),
        (_, Some(byte)) => format!("byte 0x{byte:02x} is not UTF-8"),
        (_, None) => return None,
    };
    Some((line, what))
}

fn line(text: &str, at: usize) -> usize {
    1 + text[..at].matches('\n').count()
}

fn is_yaml(line: &str) -> bool {
    let name = |c: char| c.is_ascii_alphanumeric() || "-_. \"'".contains(c);
    let begins = match line.strip_prefix("- ") {
        Some(item) => !item.contains('='),
        None => false,
    };
    let key = line.split_once(':').is_some_and(|(key, rest)| {
        key.chars().all(name) && (rest.is_empty() || rest.starts_with(' '))
    });
    line == "---" || line.starts_with("%YAML") || begins || (key && !line.contains('='))
}

fn is_haproxy(line: &str) -> bool {
    let mut words = line.split_whitespace();
    let section = matches!(
        words.next(),
        Some("global" | "defaults" | "frontend" | "backend" | "listen")
    );
    section && !line.contains('=')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_kinds_of_files_are_known_by_their_beginning() {
        for (text, want) in [
            ("{\"node\": {}}", Some((1, "JSON"))),
            ("\n[\n  {\"node\": 1}\n]", Some((2, "JSON"))),
            ("# mine\n---\nnode: 1\n", Some((2, "YAML"))),
            ("apiVersion: v1\nkind: ConfigMap\n", Some((1, "YAML"))),
            ("- name: a\n", Some((1, "YAML"))),
            ("<!DOCTYPE html>\n", Some((1, "HTML or XML"))),
            (
                "-----BEGIN CERTIFICATE-----\n",
                Some((1, "a certificate or a key")),
            ),
            (
                "global\n  daemon\n",
                Some((1, "a configuration of HAProxy")),
            ),
            ("http {\n", Some((1, "a configuration of another program"))),
            ("[node]\nname = \0\"x\"", Some((2, "a binary file"))),
            ("[node]\nname = \"a: b\"\n", None),
            ("name = \"a: b\"\n", None),
            ("[[pool]]\n", None),
            ("split = { a = 1 }\n", None),
            ("# only: a comment\n", None),
            ("", None),
        ] {
            assert_eq!(of_text(text), want, "{text:?}");
        }
    }

    #[test]
    fn bytes_that_are_no_text_are_found_with_their_line() {
        assert_eq!(of_bytes("größe = 1".as_bytes()), None);
        let latin = of_bytes(b"[node]\nname = \"gr\xfc\xdf\"\n");
        assert_eq!(latin, Some((2, "byte 0xfc is not UTF-8".to_owned())));
        let wide = of_bytes(b"\xff\xfe[\0n\0");
        assert_eq!(wide, Some((1, "the file is UTF-16".to_owned())));
        let elf = of_bytes(b"\x7fELF\n\x80\0\0");
        assert_eq!(elf, Some((1, "this is a binary file".to_owned())));
    }
}
