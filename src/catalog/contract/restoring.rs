//! Removed files that come back, copies wanted that change, and looking at all files.

use super::*;

impl Desk {
    fn removed(&self, at: &str, after: Option<Version>, limit: usize) -> Vec<(String, Version)> {
        let removed = self.catalog.removed(A, &path(at), after, limit).expect("a list");
        removed.iter().map(|entry| (entry.path.to_string(), entry.info.version)).collect()
    }

    fn undelete(&self, at: &str, version: Option<Version>) -> Result<Version, Refusal> {
        refusal(self.catalog.undelete(A, self.request(), NOW, &path(at), version))
    }

    fn rm_at(&self, at: &str, now: WallTime) {
        let request = self.request();
        let removed = self.catalog.remove_entry(A, request, now, &path(at), true, None, false);
        removed.expect("removed");
    }

    fn copies(&self, at: &str, copies: u8, after: Option<u64>, limit: usize) -> CopiesSet {
        let request = self.request();
        let set = self.catalog.set_copies(A, request, NOW, &path(at), copies, after, limit);
        set.expect("set")
    }
}

fn at(seconds: u64) -> WallTime {
    WallTime(NOW.0 + seconds * 1000)
}

#[test]
fn removed_files_are_listed_below_a_path_the_latest_first_and_in_pages() {
    on_each(|desk| {
        let paths = ["/a/f", "/a/b/f", "/ab", "/a"];
        let mut versions = Vec::new();
        for (second, at_path) in paths.iter().enumerate() {
            versions.push(desk.put(at_path, id(1)).version);
            let top = if at_path.starts_with("/a/") { "/a" } else { at_path };
            desk.rm_at(top, at(second as u64));
        }
        let all: Vec<_> =
            paths.iter().zip(&versions).map(|(p, v)| (p.to_string(), *v)).rev().collect();
        assert_eq!(desk.removed("/", None, 9), all);
        assert_eq!(desk.removed("/", None, 2), all[..2]);
        assert_eq!(desk.removed("/", Some(all[1].1), 9), all[2..]);
        assert_eq!(desk.removed("/a", None, 9), [all[0].clone(), all[2].clone(), all[3].clone()]);
        assert_eq!(desk.removed("/a/b", None, 9), [all[2].clone()]);
        assert_eq!(desk.removed("/", Some(Version(1)), 9), []);
        let first = desk.catalog.removed(A, &path("/a/f"), None, 9).expect("a list").remove(0);
        assert_eq!((first.removed_at, first.info.chunk_count), (at(0), 1));
        let theirs = desk.catalog.removed(B, &RemotePath::root(), None, 9).expect("a list");
        assert_eq!(theirs, []);
    });
}

#[test]
fn a_removed_file_comes_back_as_it_was_with_its_directories_and_its_versions() {
    on_each(|desk| {
        let first = desk.put("/d/e/f", id(1)).version;
        let second = desk.put("/d/e/f", id(2)).version;
        let before = desk.entry("/d/e/f");
        desk.rm("/d", true).expect("removed");
        assert!(desk.catalog.version(A, first).is_err());
        let request = desk.request();
        for _ in 0..2 {
            let back = desk.catalog.undelete(A, request, NOW, &path("/d/e/f"), None);
            assert_eq!(back.expect("it is back"), second);
        }
        assert_eq!(desk.entry("/d/e/f"), before);
        assert!(desk.catalog.version(A, first).is_ok());
        assert_eq!(desk.removed("/", None, 9), []);
        assert_eq!(desk.catalog.totals().expect("totals").files, 1);
        let third = desk.put("/d/e/f", id(3)).version;
        assert!(desk.catalog.manifest(A, second, 0, 9).is_ok());
        assert_eq!(desk.version("/d/e/f"), third);
        desk.catalog.expire_versions(at(1), at(1), 1000).expect("ended");
        assert_eq!(desk.version("/d/e/f"), third, "the current version does not end");
    });
}

#[test]
fn the_one_removed_last_comes_back_unless_another_is_named() {
    on_each(|desk| {
        let mut versions = Vec::new();
        for second in 0..3 {
            versions.push(desk.put("/f", id(1)).version);
            desk.rm_at("/f", at(second));
        }
        assert_eq!(desk.undelete("/f", Some(versions[1])), Ok(versions[1]));
        assert_eq!(desk.undelete("/f", None), Err(Refusal::Exists("/f".to_string())));
        desk.rm_at("/f", at(9));
        assert_eq!(desk.undelete("/f", None), Ok(versions[1]), "now that was the last");
        let never = Refusal::NotFound("/g".to_string());
        assert_eq!(desk.undelete("/g", None), Err(never.clone()));
        assert_eq!(desk.undelete("/g", Some(versions[0])), Err(never));
        let root = Refusal::NotFound("/".to_string());
        assert_eq!(desk.undelete("/", None), Err(root));
    });
}

#[test]
fn a_file_in_the_place_of_a_directory_keeps_what_was_below_it_from_coming_back() {
    on_each(|desk| {
        desk.put("/d/f", id(1));
        desk.rm("/d", true).expect("removed");
        desk.put("/d", id(2));
        assert_eq!(desk.undelete("/d/f", None), Err(Refusal::NotADirectory("/d".to_string())));
    });
}

#[test]
fn an_expired_file_cannot_be_brought_back() {
    on_each(|desk| {
        desk.put("/f", id(1));
        desk.rm("/f", false).expect("removed");
        desk.catalog.expire_versions(at(1), at(1), 1000).expect("ended");
        assert_eq!(desk.removed("/", None, 9), []);
        assert_eq!(desk.undelete("/f", None), Err(Refusal::NotFound("/f".to_string())));
    });
}

#[test]
fn the_copies_of_a_file_go_up_and_down_but_not_for_what_others_share() {
    on_each(|desk| {
        let (own, shared) = (desk.store(A, id(1), &[N1, N2]), desk.store(A, id(2), &[N1, N2]));
        desk.commit(A, file("/f", &[id(1), id(2), id(1)])).expect("committed");
        desk.commit(A, file("/g", &[id(2)])).expect("committed");
        let wanted = || (desk.chunk(own.serial).wanted, desk.chunk(shared.serial).wanted);
        let set = desk.copies("/f", 2, None, 100);
        let counts = (set.files, set.chunks, set.kept, set.next);
        assert_eq!(counts, (1, 2, 1, None));
        assert_eq!((set.changed, wanted()), (vec![own.serial], (2, 3)));
        let Ok(EntryKind::File(info)) = desk.entry("/f") else { panic!("it is a file") };
        assert_eq!(info.copies, 2);
        let set = desk.copies("/f", 4, None, 100);
        assert_eq!((set.changed, set.kept), (vec![own.serial, shared.serial], 0));
        assert_eq!(wanted(), (4, 4));
        let under = desk.catalog.under_copied(None, 9).expect("a list");
        assert_eq!(under.len(), 2, "they are short of copies now");
        let request = desk.request();
        let answers: Vec<_> = (0..2)
            .map(|_| desk.catalog.set_copies(A, request, NOW, &path("/f"), 3, None, 9).expect("ok"))
            .collect();
        assert_eq!(answers[0], answers[1], "a repeat gets the same answer");
        let none = desk.catalog.set_copies(A, desk.request(), NOW, &path("/no"), 3, None, 9);
        assert_eq!(refusal(none), Err(Refusal::NotFound("/no".to_string())));
    });
}

#[test]
fn the_copies_of_a_tree_are_set_in_steps_that_reach_every_file_once() {
    on_each(|desk| {
        let paths = ["/t/a", "/t/b/x", "/t/b/y/z", "/t/b-", "/t/c", "/u"];
        for (number, at) in paths.iter().enumerate() {
            desk.put(at, id(number as u32));
        }
        for limit in [1, 2, 3, 100] {
            let (mut files, mut after) = (0, None);
            loop {
                let set = desk.copies("/t", 2, after, limit);
                files += set.files;
                match set.next {
                    Some(_) => after = set.next,
                    None => break,
                }
            }
            assert_eq!(files, 5, "{limit} at a time");
        }
        let copies = |at: &str| match desk.entry(at) {
            Ok(EntryKind::File(info)) => info.copies,
            other => panic!("{other:?}"),
        };
        assert!(paths[..5].iter().all(|at| copies(at) == 2));
        assert_eq!(copies("/u"), 3);
        let all = desk.copies("/", 3, Some(u64::MAX), 100);
        assert_eq!(all.files, 6, "from the first, behind a file that is not there");
    });
}

#[test]
fn every_file_that_can_be_seen_comes_once_with_its_path() {
    on_each(|desk| {
        for (number, at) in ["/a/b/f", "/a/g", "/h"].iter().enumerate() {
            desk.put(at, id(number as u32));
        }
        desk.rm("/a/g", false).expect("removed");
        desk.mv("/a", "/z", false).expect("moved");
        let seen = |after, limit| desk.catalog.seen_files(after, limit).expect("a page");
        let all = seen(None, 9);
        let paths: Vec<_> = all.iter().map(|file| file.path.as_str()).collect();
        assert_eq!(paths, ["/z/b/f", "/h"]);
        assert_eq!((all[0].account, all[0].chunk_count), (A, 1));
        assert_eq!(all[0].version, desk.version("/z/b/f"));
        assert_eq!(seen(None, 1), all[..1]);
        assert_eq!(seen(Some(all[0].position), 9), all[1..]);
        let serials = desk.catalog.serials_of(all[1].version, 0, 9).expect("serials");
        assert_eq!(desk.chunk(serials[0]).id, id(2));
        assert_eq!(desk.catalog.serials_of(all[1].version, 1, 9).expect("serials"), []);
    });
}

#[test]
fn nothing_is_moved_to_where_a_path_below_it_would_be_too_long_or_too_deep() {
    on_each(|desk| {
        let name = "n".repeat(crate::remote_path::MAX_NAME_BYTES);
        let long: String = (0..15).map(|_| format!("/{name}")).collect();
        desk.mkdir(&format!("/d{long}/x"), true).expect("made");
        let to = format!("/{name}");
        assert_eq!(desk.mv("/d", &to, false), Err(Refusal::PathTooLong(to.clone())));
        let half = "x".repeat(100);
        desk.mv("/d", &format!("/{half}"), false).expect("that much is possible");
        desk.mkdir(&format!("/deep{}", "/d".repeat(127)), true).expect("made");
        desk.mkdir("/in", false).expect("made");
        let deeper = "/in/deep".to_string();
        assert_eq!(desk.mv("/deep", &deeper, false), Err(Refusal::PathTooLong(deeper)));
        desk.mv("/deep", "/shallow-and-longer", false).expect("as deep as before");
    });
}
