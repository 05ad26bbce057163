//! The trees of names.

use super::*;

fn not_found(at: &str) -> Refusal {
    Refusal::NotFound(at.to_string())
}

fn exists(at: &str) -> Refusal {
    Refusal::Exists(at.to_string())
}

fn not_a_directory(at: &str) -> Refusal {
    Refusal::NotADirectory(at.to_string())
}

fn is_a_directory(at: &str) -> Refusal {
    Refusal::IsADirectory(at.to_string())
}

#[test]
fn a_directory_is_made_once_unless_parents_may_be_made_too() {
    on_each(|desk| {
        desk.put("/f", id(1));
        assert_eq!(desk.mkdir("/a/b", false), Err(not_found("/a")));
        assert_eq!(desk.mkdir("/a", false), Ok(()));
        assert_eq!(desk.mkdir("/a", false), Err(exists("/a")));
        assert_eq!(desk.mkdir("/a/b/c", true), Ok(()));
        assert_eq!(desk.mkdir("/a/b/c", true), Ok(()));
        assert_eq!(desk.mkdir("/", false), Err(exists("/")));
        assert_eq!(desk.mkdir("/", true), Ok(()));
        for parents in [false, true] {
            assert_eq!(desk.mkdir("/f", parents), Err(exists("/f")));
            assert_eq!(desk.mkdir("/f/x", parents), Err(not_a_directory("/f")));
        }
        assert_eq!(desk.ls("/a/b"), ["c"]);
    });
}

#[test]
fn what_stands_at_a_path_is_found_or_the_first_obstacle_is_named() {
    on_each(|desk| {
        desk.put("/a/f", id(1));
        let root = desk.catalog.look_up(A, &RemotePath::root()).expect("the root is always there");
        assert_eq!(root, Entry { name: String::new(), kind: EntryKind::Directory });
        let found = desk.catalog.look_up(A, &path("/a/f")).expect("found");
        assert_eq!(found.name, "f");
        assert_eq!(desk.entry("/x/y/z"), Err(not_found("/x")));
        assert_eq!(desk.entry("/a/y"), Err(not_found("/a/y")));
        assert_eq!(desk.entry("/a/f/y/z"), Err(not_a_directory("/a/f")));
        assert_eq!(
            refusal(desk.catalog.list(A, &path("/a/f"), None, 9)),
            Err(not_a_directory("/a/f"))
        );
        assert_eq!(refusal(desk.catalog.list(A, &path("/b"), None, 9)), Err(not_found("/b")));
    });
}

#[test]
fn a_directory_lists_by_the_bytes_of_the_names_in_pages() {
    on_each(|desk| {
        // U+FF5E sorts before U+1F600 as bytes of UTF-8, and behind it as UTF-16.
        let names = ["B", "a", "a b", "a.", "ab", "é", "\u{ff5e}", "\u{1f600}"];
        for name in names.iter().rev() {
            desk.mkdir(&format!("/d/{name}"), true).expect("made");
        }
        desk.mkdir("/d/a/below", false).expect("made");
        assert_eq!(desk.ls("/d"), names);
        let page = |after: Option<&str>, limit| {
            let entries = desk.catalog.list(A, &path("/d"), after, limit).expect("a page");
            entries.into_iter().map(|entry| entry.name).collect::<Vec<_>>()
        };
        assert_eq!(page(None, 3), names[..3]);
        assert_eq!(page(Some("a b"), 3), names[3..6]);
        assert_eq!(page(Some("a/"), 2), names[4..6], "the name need not be there");
        assert_eq!(page(Some("\u{1f600}"), 3), [""; 0]);
        assert_eq!(page(None, 0), [""; 0]);
    });
}

#[test]
fn a_file_or_a_directory_with_all_below_it_is_renamed() {
    on_each(|desk| {
        let version = desk.put("/a/b/f", id(1)).version;
        desk.mkdir("/x", false).expect("made");
        assert_eq!(desk.mv("/a/b/f", "/a/b/g", false), Ok(()));
        assert_eq!(desk.version("/a/b/g"), version);
        assert_eq!(desk.mv("/a", "/x/y", false), Ok(()));
        assert_eq!(desk.version("/x/y/b/g"), version);
        assert_eq!(desk.ls("/"), ["x"]);
    });
}

#[test]
fn a_move_that_cannot_be_is_refused() {
    on_each(|desk| {
        desk.put("/a/f", id(1));
        desk.put("/g", id(2));
        desk.mkdir("/d", false).expect("made");
        for replace in [false, true] {
            assert_eq!(desk.mv("/", "/x", replace), Err(is_a_directory("/")));
            assert_eq!(desk.mv("/a", "/", replace), Err(is_a_directory("/")));
            assert_eq!(desk.mv("/n", "/x", replace), Err(not_found("/n")));
            assert_eq!(desk.mv("/a/f", "/n/x", replace), Err(not_found("/n")));
            assert_eq!(desk.mv("/a/f", "/g/x", replace), Err(not_a_directory("/g")));
            assert_eq!(desk.mv("/a/f", "/d", replace), Err(exists("/d")));
            let into =
                |to: &str| Refusal::IntoItself { from: "/a".to_string(), to: to.to_string() };
            assert_eq!(desk.mv("/a", "/a/b", replace), Err(into("/a/b")));
            assert_eq!(desk.mv("/a", "/a/b/c", replace), Err(into("/a/b/c")));
            assert_eq!(desk.mv("/g", "/g/x", replace), Err(not_a_directory("/g")));
        }
        assert_eq!(desk.mv("/a/f", "/g", false), Err(exists("/g")));
        assert_eq!(desk.ls("/"), ["a", "d", "g"]);
    });
}

#[test]
fn a_move_to_its_own_name_changes_nothing() {
    on_each(|desk| {
        let version = desk.put("/a/f", id(1)).version;
        for replace in [false, true] {
            assert_eq!(desk.mv("/a/f", "/a/f", replace), Ok(()));
            assert_eq!(desk.mv("/a", "/a", replace), Ok(()));
        }
        assert_eq!(desk.mv("/n", "/n", true), Err(not_found("/n")));
        assert_eq!(desk.version("/a/f"), version);
    });
}

#[test]
fn a_file_in_the_way_is_replaced_when_asked_for() {
    on_each(|desk| {
        let moved = desk.put("/a/f", id(1)).version;
        let replaced = desk.put("/g", id(2)).version;
        assert_eq!(desk.mv("/a/f", "/g", true), Ok(()));
        assert_eq!(desk.version("/g"), moved);
        assert!(desk.catalog.manifest(A, replaced, 0, 9).is_err(), "it is a removed one now");
        desk.put("/h", id(3));
        assert_eq!(desk.mv("/a", "/h", true), Ok(()), "by a directory too");
        assert_eq!(desk.entry("/h"), Ok(EntryKind::Directory));
        desk.catalog.sync().expect("synced");
        assert_eq!(desk.catalog.totals().expect("totals").files, 1);
    });
}

#[test]
fn a_directory_with_something_in_it_is_removed_only_recursively() {
    on_each(|desk| {
        desk.put("/a/f", id(1));
        desk.put("/a/b/g", id(2));
        desk.mkdir("/a/b/c", false).expect("made");
        desk.put("/ab", id(3));
        assert_eq!(desk.rm("/a", false), Err(Refusal::NotEmpty("/a".to_string())));
        assert_eq!(desk.rm("/a/b/c", false), Ok(0));
        assert_eq!(desk.rm("/a", true), Ok(2), "the files, not the directories");
        assert_eq!(desk.ls("/"), ["ab"]);
        desk.put("/a/f", id(1));
        assert_eq!(desk.ls("/a"), ["f"], "what is made anew is empty");
    });
}

#[test]
fn a_removal_that_cannot_be_is_refused() {
    on_each(|desk| {
        desk.put("/d/f", id(1));
        assert_eq!(desk.rm("/", true), Err(is_a_directory("/")));
        assert_eq!(desk.rm("/x/y", true), Err(not_found("/x")));
        assert_eq!(desk.rm("/d/f/x", true), Err(not_a_directory("/d/f")));
    });
}

#[test]
fn a_removal_can_ask_for_the_version_that_goes() {
    on_each(|desk| {
        let first = desk.put("/d/f", id(1)).version;
        let second = desk.put("/d/f", id(2)).version;
        let remove = |at: &str, version| {
            let request = desk.request();
            let removed =
                desk.catalog.remove_entry(A, request, NOW, &path(at), true, Some(version), false);
            refusal(removed)
        };
        let conflict = |path: &str, current| Refusal::Conflict { path: path.to_string(), current };
        assert_eq!(remove("/d/f", first), Err(conflict("/d/f", Some(second))));
        assert_eq!(remove("/d", second), Err(conflict("/d", None)));
        assert_eq!(remove("/d/f", second), Ok(1));
    });
}

#[test]
fn a_repeated_change_of_names_gets_the_same_answer() {
    on_each(|desk| {
        desk.put("/a/f", id(1));
        let (one, two, three) = (desk.request(), desk.request(), desk.request());
        for _ in 0..2 {
            desk.catalog.make_directory(A, one, NOW, &path("/d"), false).expect("made");
        }
        for _ in 0..2 {
            let (from, to) = (path("/a/f"), path("/d/f"));
            desk.catalog.move_entry(A, two, NOW, &from, &to, false).expect("moved");
        }
        for _ in 0..2 {
            let removed = desk.catalog.remove_entry(A, three, NOW, &path("/d"), true, None, false);
            assert_eq!(removed.expect("removed"), 1);
        }
    });
}

#[test]
fn the_trees_of_accounts_are_apart() {
    on_each(|desk| {
        desk.put("/a/f", id(1));
        let theirs = desk.catalog.list(B, &RemotePath::root(), None, 9).expect("a root");
        assert_eq!(theirs, []);
        desk.catalog.make_directory(B, desk.request(), NOW, &path("/b"), false).expect("made");
        assert_eq!(desk.ls("/"), ["a"]);
    });
}
