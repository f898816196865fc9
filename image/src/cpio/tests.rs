use super::*;

/// One member as a reader of the format sees it.
#[derive(Debug, PartialEq)]
struct Member {
    name: String,
    fields: Vec<u32>,
    content: Vec<u8>,
}

/// Reads an archive by the kernel's description of the format, independent of the writer's code.
fn read(archive: &[u8]) -> Vec<Member> {
    let mut at = 0;
    let mut members = Vec::new();
    loop {
        assert_eq!(at % 4, 0, "members begin at multiples of four");
        assert_eq!(&archive[at..at + 6], b"070701");
        let field = |index: usize| {
            let from = at + 6 + index * 8;
            u32::from_str_radix(std::str::from_utf8(&archive[from..from + 8]).unwrap(), 16).unwrap()
        };
        let fields: Vec<u32> = (0..13).map(field).collect();
        let (size, name_size) = (fields[6] as usize, fields[11] as usize);
        let name = &archive[at + 110..at + 110 + name_size];
        assert_eq!(name.last(), Some(&0));
        let name = String::from_utf8(name[..name_size - 1].to_vec()).unwrap();
        let content_at = (at + 110 + name_size).next_multiple_of(4);
        let content = archive[content_at..content_at + size].to_vec();
        at = (content_at + size).next_multiple_of(4);
        if name == "TRAILER!!!" {
            assert_eq!(at, archive.len(), "nothing follows the trailer");
            return members;
        }
        members.push(Member { name, fields, content });
    }
}

fn sample() -> Tree {
    let mut tree = Tree::new();
    tree.file("sbin/x", 0o755, "12345");
    tree.char_device("dev/console", 0o600, 5, 1);
    tree.symlink("sbin/y", "x");
    tree
}

#[test]
fn every_entry_is_there_with_type_mode_and_content() {
    let members = read(&archive(&sample(), 7));
    let seen: Vec<(&str, u32, &[u8])> = members
        .iter()
        .map(|member| (member.name.as_str(), member.fields[1], member.content.as_slice()))
        .collect();
    let expected: [(&str, u32, &[u8]); 5] = [
        ("dev", 0o040_755, b""),
        ("dev/console", 0o020_600, b""),
        ("sbin", 0o040_755, b""),
        ("sbin/x", 0o100_755, b"12345"),
        ("sbin/y", 0o120_777, b"x"),
    ];
    assert_eq!(seen, expected);
}

#[test]
fn root_owns_all_and_the_given_time_is_the_only_one() {
    let members = read(&archive(&sample(), 7));
    for member in &members {
        assert_eq!((member.fields[2], member.fields[3], member.fields[5]), (0, 0, 7), "{}", member.name);
    }
    let console = &members[1];
    assert_eq!((console.fields[9], console.fields[10]), (5, 1));
    let mut inodes: Vec<u32> = members.iter().map(|member| member.fields[0]).collect();
    inodes.dedup();
    assert_eq!(inodes.len(), members.len(), "equal inode numbers would be hard links");
}
