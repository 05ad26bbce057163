//! New contents of files.

use super::*;

fn not_stored(chunks: &[ChunkId]) -> Refusal {
    Refusal::NotStored { chunks: chunks.to_vec() }
}

fn staged(at: &str, upload: RequestId, parts: u32) -> NewFile {
    NewFile { manifest: Manifest::Staged { upload, parts }, ..file(at, &[]) }
}

fn serials(desk: &Desk, version: Version, from: u64, limit: usize) -> Vec<Serial> {
    let records = desk.catalog.manifest(A, version, from, limit).expect("a manifest");
    records.iter().map(|record| record.serial).collect()
}

#[test]
fn a_committed_file_is_whole_and_visible() {
    on_each(|desk| {
        let one = desk.store(A, id(1), &[N1, N2]);
        let two = desk.store(A, id(2), &[N1, N2, N3]);
        let chunks = [id(2), id(1), id(2)];
        let committed = desk.commit(A, file("/a/b/f", &chunks)).expect("committed");
        assert_eq!(committed.size, 3 * u64::from(LENGTH));
        assert_eq!(committed.under_copied, [one.serial], "each once");
        let info = FileInfo {
            version: committed.version,
            size: committed.size,
            chunk_count: 3,
            copies: 3,
            mtime_ms: -5,
            executable: true,
        };
        assert_eq!(desk.entry("/a/b/f"), Ok(EntryKind::File(info)));
        assert_eq!(desk.entry("/a/b"), Ok(EntryKind::Directory));
        let manifest = desk.catalog.manifest(A, committed.version, 0, 9).expect("a manifest");
        assert_eq!(manifest, [two.clone(), one.clone(), two]);
        assert_eq!(serials(desk, committed.version, 1, 1), [one.serial]);
        assert_eq!(serials(desk, committed.version, 3, 1), []);
        assert_eq!(serials(desk, committed.version, u64::MAX, usize::MAX), []);
    });
}

#[test]
fn an_empty_file_has_no_chunks() {
    on_each(|desk| {
        let committed = desk.commit(A, file("/f", &[])).expect("committed");
        assert_eq!((committed.size, committed.under_copied.len()), (0, 0));
        assert_eq!(serials(desk, committed.version, 0, 9), []);
    });
}

#[test]
fn a_chunk_of_another_account_is_not_stored_though_its_id_is_known() {
    on_each(|desk| {
        desk.store(B, id(1), &[N1, N2, N3]);
        assert_eq!(desk.commit(A, file("/f", &[id(1)])), Err(not_stored(&[id(1)])));
        let upload = desk.request();
        let stage = desk.catalog.stage_part(A, upload, 0, &[id(1)], NOW);
        assert_eq!(refusal(stage), Err(not_stored(&[id(1)])));
        assert_eq!(desk.entry("/f"), Err(Refusal::NotFound("/f".to_string())));
    });
}

#[test]
fn copies_on_nodes_that_are_not_live_do_not_count() {
    on_each(|desk| {
        let record = desk.store(A, id(1), &[N1, N2]);
        let commit = |live: &LiveNodes| {
            let files = [file("/f", &[id(1)])];
            let answers = desk.catalog.commit_files(A, desk.request(), NOW, live, &files);
            answers.expect("answers").remove(0)
        };
        assert_eq!(commit(&live(&[1, 3])), Err(not_stored(&[id(1)])));
        desk.confirm(&confirmation(&record, N3)).expect("confirmed");
        let committed = commit(&live(&[1, 3])).expect("two live copies");
        assert_eq!(committed.under_copied, [record.serial], "one of the three is not live");
        assert_eq!(commit(&live(&[1, 2, 3])).expect("committed").under_copied, []);
    });
}

#[test]
fn a_file_needs_the_fewer_of_two_and_the_copies_asked_for() {
    on_each(|desk| {
        let record = desk.store(A, id(1), &[N1]);
        for (copies, is_enough) in [(1, true), (2, false), (3, false), (16, false)] {
            let answer = desk.commit(A, NewFile { copies, ..file("/f", &[id(1)]) });
            assert_eq!(answer.is_ok(), is_enough, "{copies} copies");
        }
        desk.confirm(&confirmation(&record, N2)).expect("confirmed");
        desk.commit(A, NewFile { copies: 16, ..file("/f", &[id(1)]) }).expect("committed");
        assert_eq!(desk.chunk(record.serial).wanted, 16, "the most that anything asked for");
    });
}

#[test]
fn a_refusal_names_each_missing_chunk_once_and_not_without_end() {
    on_each(|desk| {
        desk.store(A, id(1), &[N1, N2]);
        desk.store(A, id(2), &[N1]);
        let chunks = [id(4), id(1), id(2), id(4), id(3)];
        let expected = not_stored(&[id(4), id(2), id(3)]);
        assert_eq!(desk.commit(A, file("/f", &chunks)), Err(expected));
        let many: Vec<_> = (100..1000).map(id).collect();
        let expected = not_stored(&many[..MAX_NAMED_CHUNKS]);
        assert_eq!(desk.commit(A, file("/f", &many)), Err(expected));
        assert_eq!(desk.chunk(desk.reserve(A, id(1)).serial).wanted, 3);
        assert_eq!(desk.catalog.under_copied(None, 9).expect("an answer"), [], "nothing refers");
    });
}

#[test]
fn a_condition_on_what_stands_there_is_kept() {
    on_each(|desk| {
        let commit = |condition| desk.commit(A, NewFile { condition, ..file("/f", &[]) });
        let conflict = |current| Err(Refusal::Conflict { path: "/f".to_string(), current });
        assert_eq!(commit(Condition::Version(Version(1))), conflict(None));
        let first = commit(Condition::Absent).expect("nothing stood there").version;
        assert_eq!(commit(Condition::Absent), conflict(Some(first)));
        let second = commit(Condition::Version(first)).expect("the first stood there").version;
        assert!(second > first);
        assert_eq!(commit(Condition::Version(first)), conflict(Some(second)));
        assert_eq!(desk.version("/f"), second);
        commit(Condition::Any).expect("anything may stand there");
    });
}

#[test]
fn what_is_in_the_way_of_a_file_is_named() {
    on_each(|desk| {
        desk.commit(A, file("/d/f", &[])).expect("committed");
        let refused = |at: &str, parents| {
            desk.commit(A, NewFile { parents, ..file(at, &[]) }).expect_err("refused")
        };
        assert_eq!(refused("/", true), Refusal::IsADirectory("/".to_string()));
        assert_eq!(refused("/d", true), Refusal::IsADirectory("/d".to_string()));
        assert_eq!(refused("/d/f/x/y", true), Refusal::NotADirectory("/d/f".to_string()));
        assert_eq!(refused("/d/f/x", false), Refusal::NotADirectory("/d/f".to_string()));
        assert_eq!(refused("/n/x/y", false), Refusal::NotFound("/n".to_string()));
        assert_eq!(desk.ls("/"), ["d"], "a refused file leaves no directories");
    });
}

#[test]
fn a_refused_file_leaves_no_directories_that_were_made_for_it() {
    on_each(|desk| {
        desk.commit(A, file("/a/b/f", &[id(1)])).expect_err("not stored");
        assert_eq!(desk.ls("/"), [""; 0]);
    });
}

#[test]
fn the_files_of_a_batch_are_accepted_or_refused_each_on_its_own() {
    on_each(|desk| {
        desk.store(A, id(1), &[N1, N2]);
        let files = [file("/a", &[id(1)]), file("/b", &[id(2)]), file("/c", &[id(1)])];
        let request = desk.request();
        let commit = || {
            let answers = desk.catalog.commit_files(A, request, NOW, &live(&[1, 2]), &files);
            answers.expect("answers")
        };
        let answers = commit();
        assert!(answers[0].is_ok() && answers[2].is_ok());
        assert_eq!(answers[1], Err(not_stored(&[id(2)])));
        assert_eq!(desk.ls("/"), ["a", "c"]);
        desk.store(A, id(2), &[N1, N2]);
        assert_eq!(commit(), answers, "a repeat gets the same answers");
    });
}

#[test]
fn one_path_twice_in_a_batch_is_taken_in_order() {
    on_each(|desk| {
        let files = [
            file("/f", &[]),
            NewFile { condition: Condition::Absent, ..file("/f", &[]) },
            NewFile { executable: false, ..file("/f", &[]) },
        ];
        let answers = desk.catalog.commit_files(A, desk.request(), NOW, &live(&[]), &files);
        let answers = answers.expect("answers");
        let first = answers[0].as_ref().expect("committed").version;
        let conflict = Refusal::Conflict { path: "/f".to_string(), current: Some(first) };
        assert_eq!(answers[1], Err(conflict));
        assert_eq!(desk.version("/f"), answers[2].as_ref().expect("committed").version);
    });
}

#[test]
fn a_request_of_which_nothing_was_accepted_is_tried_anew() {
    on_each(|desk| {
        let request = desk.request();
        let files = [file("/f", &[id(1)])];
        let commit =
            || desk.catalog.commit_files(A, request, NOW, &live(&[1, 2]), &files).expect("answers");
        assert_eq!(commit(), [Err(not_stored(&[id(1)]))]);
        desk.store(A, id(1), &[N1, N2]);
        let accepted = commit();
        assert!(accepted[0].is_ok());
        assert_eq!(commit(), accepted);
    });
}

#[test]
fn an_answer_is_kept_for_a_day() {
    on_each(|desk| {
        let request = desk.request();
        let commit = |now| {
            let files = [file("/f", &[])];
            let answers = desk.catalog.commit_files(A, request, now, &live(&[]), &files);
            answers.expect("answers").remove(0).expect("committed").version
        };
        let first = commit(NOW);
        assert_eq!(commit(NOW + ANSWERS_KEPT - std::time::Duration::from_millis(1)), first);
        assert_ne!(commit(NOW + ANSWERS_KEPT), first);
    });
}

#[test]
fn a_request_id_stands_for_one_operation_of_one_account() {
    on_each(|desk| {
        let request = desk.request();
        let make = |account, at: &str| {
            refusal(desk.catalog.make_directory(account, request, NOW, &path(at), false))
        };
        let reused = Refusal::RequestReused(request);
        assert_eq!(make(A, "/d"), Ok(()));
        assert_eq!(make(A, "/d"), Ok(()), "a repeat");
        assert_eq!(make(B, "/d"), Err(reused.clone()));
        let files = [file("/f", &[])];
        let commit = desk.catalog.commit_files(A, request, NOW, &live(&[]), &files);
        assert_eq!(refusal(commit), Err(reused.clone()));
        let remove = desk.catalog.remove_entry(A, request, NOW, &path("/d"), false, None, false);
        assert_eq!(refusal(remove), Err(reused));
        assert_eq!(desk.ls("/"), ["d"]);
    });
}

#[test]
fn a_replaced_version_can_be_read_to_its_end() {
    on_each(|desk| {
        let first = desk.put("/f", id(1)).version;
        let second = desk.put("/f", id(2)).version;
        assert_eq!(desk.version("/f"), second);
        assert_eq!(serials(desk, first, 0, 9).len(), 1);
        let info = desk.catalog.version(A, first).expect("it can be read");
        assert_eq!((info.version, info.chunk_count), (first, 1));
        let EntryKind::File(current) = desk.catalog.look_up(A, &path("/f")).expect("there").kind
        else {
            panic!("a file");
        };
        assert_eq!(desk.catalog.version(A, second).expect("the current one"), current);
        desk.rm("/f", false).expect("removed");
        for version in [first, second, Version(999_999)] {
            assert!(desk.catalog.version(A, version).is_err());
            let manifest = desk.catalog.manifest(A, version, 0, 9);
            let expected = Refusal::NotFound(format!("version {version}"));
            assert_eq!(refusal(manifest), Err(expected));
        }
    });
}

#[test]
fn a_version_is_read_by_its_own_account_alone() {
    on_each(|desk| {
        let version = desk.put("/f", id(1)).version;
        assert!(desk.catalog.manifest(B, version, 0, 9).is_err());
        assert!(desk.catalog.version(B, version).is_err());
        assert!(desk.catalog.look_up(B, &path("/f")).is_err());
    });
}

#[test]
fn a_manifest_in_parts_is_put_together_in_order() {
    on_each(|desk| {
        let records: Vec<_> = (0..7).map(|n| desk.store(A, id(n), &[N1, N2])).collect();
        let all: Vec<_> = records.iter().map(|r| r.serial).collect();
        let upload = desk.request();
        let stage = |part, numbers: std::ops::Range<u32>| {
            let ids: Vec<_> = numbers.map(id).collect();
            refusal(desk.catalog.stage_part(A, upload, part, &ids, NOW)).expect("staged");
        };
        stage(1, 0..2);
        stage(2, 5..7);
        let absent = desk.commit(A, staged("/f", upload, 3));
        assert!(matches!(absent, Err(Refusal::BadManifest(_))), "part 0 is not there");
        stage(0, 0..3);
        stage(1, 3..5);
        let committed = desk.commit(A, staged("/f", upload, 3)).expect("committed");
        assert_eq!(committed.size, 7 * u64::from(LENGTH));
        assert_eq!(serials(desk, committed.version, 0, 99), all, "the part sent last counts");
        let cleared = desk.commit(A, staged("/g", upload, 3));
        assert!(matches!(cleared, Err(Refusal::BadManifest(_))), "its parts are cleared");
        let others = desk.commit(B, staged("/f", upload, 1));
        assert!(matches!(others, Err(Refusal::BadManifest(_))), "an upload is its account's own");
    });
}

#[test]
fn a_refused_commit_leaves_its_parts_staged() {
    on_each(|desk| {
        let record = desk.store(A, id(1), &[N1]);
        let upload = desk.request();
        desk.catalog.stage_part(A, upload, 0, &[id(1)], NOW).expect("staged");
        assert_eq!(desk.commit(A, staged("/f", upload, 1)), Err(not_stored(&[id(1)])));
        desk.confirm(&confirmation(&record, N2)).expect("confirmed");
        desk.commit(A, staged("/f", upload, 1)).expect("committed");
    });
}

#[test]
fn a_large_manifest_comes_back_whole_in_pages_of_any_size() {
    on_each(|desk| {
        let ids: Vec<_> = (0..100).map(id).collect();
        let asked: Vec<_> = ids.iter().map(|id| (*id, LENGTH)).collect();
        let reserved = desk.catalog.reserve(A, 2, LATER, &asked).expect("answers");
        let records: Vec<_> = reserved.into_iter().map(|r| r.expect("reserved")).collect();
        for node in [N1, N2] {
            let said: Vec<_> = records.iter().map(|r| confirmation(r, node)).collect();
            desk.catalog.confirm_copies(&said, LATER).expect("answers");
        }
        let upload = desk.request();
        let part: Vec<_> = ids.iter().cycle().take(MAX_PART_CHUNKS).copied().collect();
        for number in 0..2 {
            desk.catalog.stage_part(A, upload, number, &part[number as usize..], NOW).expect("ok");
        }
        let committed = desk.commit(A, staged("/big", upload, 2)).expect("committed");
        let count = 2 * MAX_PART_CHUNKS - 1;
        let whole = serials(desk, committed.version, 0, usize::MAX);
        assert_eq!(whole.len(), count);
        let expected = part.iter().chain(&part[1..]);
        let by_id = |id: &ChunkId| records.iter().find(|r| r.id == *id).expect("stored").serial;
        assert!(expected.map(by_id).eq(whole.iter().copied()));
        for (from, limit) in [(0, 1000), (4000, 200), (4095, 2), (4096, 1), (8190, 10)] {
            let page = serials(desk, committed.version, from as u64, limit);
            assert_eq!(page, whole[from..(from + limit).min(count)], "from {from}");
        }
    });
}

#[test]
fn a_part_above_the_limits_is_refused() {
    on_each(|desk| {
        desk.reserve(A, id(1));
        let stage = |part, count| {
            let ids = vec![id(1); count];
            refusal(desk.catalog.stage_part(A, request(1), part, &ids, NOW))
        };
        assert!(matches!(stage(MAX_PARTS, 1), Err(Refusal::BadManifest(_))));
        assert!(matches!(stage(0, MAX_PART_CHUNKS + 1), Err(Refusal::BadManifest(_))));
        assert_eq!(stage(MAX_PARTS - 1, 1), Ok(()));
    });
}

#[test]
fn a_staged_part_waits_for_a_bounded_time() {
    on_each(|desk| {
        desk.store(A, id(1), &[N1, N2]);
        let upload = desk.request();
        desk.catalog.stage_part(A, upload, 0, &[id(1)], NOW).expect("staged");
        let commit = |now| {
            let files = [staged("/f", upload, 1)];
            let request = desk.request();
            let answers = desk.catalog.commit_files(A, request, now, &live(&[1, 2]), &files);
            answers.expect("answers").remove(0)
        };
        assert!(matches!(commit(NOW + PARTS_KEPT), Err(Refusal::BadManifest(_))));
        commit(NOW + PARTS_KEPT - std::time::Duration::from_millis(1)).expect("still there");
    });
}
