//! Work of the operator's own, without a program: an input becomes shards, segments become one file.

use std::sync::Arc;

use asynctask_contract::wire::{AssembledOutput, BuiltIn, EmitLimits, Emitted, OutputDeclaration};
use nix::sys::signal::Signal;
use tokio::sync::Notify;

use crate::world::{Fault, World, output};

/// A pod of a built-in step has no command.
async fn world(built_in: BuiltIn) -> World {
    let mut world = World::new("").await;
    world.command(&[]);
    world.work(|work| work.built_in = Some(built_in));
    world
}

async fn split(input: &[u8], items_per_shard: u32) -> World {
    let world = world(BuiltIn::Split { input: "recipients".into() }).await;
    world.give_input(&world.plain_store(), "recipients", input);
    let limits = EmitLimits { items_per_shard, shards: 100, items: 1000, line_bytes: 100 };
    world.work(|work| work.emits = Some(limits));
    world
}

/// One output of these segments.
async fn assemble(header: bool, segments: &[impl AsRef<[u8]>]) -> World {
    let sent = AssembledOutput { output: "sent".into(), header, segments: segments.len() as u32, base: None };
    let world = world(BuiltIn::Assemble { outputs: vec![sent] }).await;
    world.give_segments("sent", segments);
    world.work(|work| work.outputs = vec![output("sent", "report/sent.csv")]);
    world
}

impl World {
    fn assembled(&self, change: impl FnOnce(&mut Vec<AssembledOutput>)) {
        self.work(|work| match &mut work.built_in {
            Some(BuiltIn::Assemble { outputs }) => change(outputs),
            other => panic!("{other:?}"),
        });
    }
}

#[tokio::test]
async fn each_line_of_an_input_is_an_item() {
    let ended = split(b"{\"to\":\"a\"}\r\n\n2\n3", 2).await.run().await;
    assert_eq!(ended.code, 0, "{}", ended.stderr);
    assert_eq!(ended.commit().emitted, Some(Emitted { shards: 2, items: 3 }));
    assert_eq!((ended.stored("items/0"), ended.stored("items/1")), ("{\"to\":\"a\"}\n2\n".into(), "3\n".into()));

    let ended = split(b"", 2).await.run().await;
    assert_eq!((ended.code, ended.commit().emitted), (0, Some(Emitted { shards: 0, items: 0 })), "{}", ended.stderr);
}

#[tokio::test]
async fn a_line_that_is_no_item_is_named_with_its_input() {
    let ended = split(b"1\n2\nmail,name\n", 1).await.run().await;
    let failure = ended.failure();
    assert_eq!((ended.code, failure.code.as_str()), (243, "InvalidItem"));
    assert!(failure.message.starts_with("line 3 of input recipients is not JSON: "), "{}", failure.message);
}

#[tokio::test]
async fn neither_a_command_nor_work_is_an_error() {
    let mut world = World::new("").await;
    world.command(&[]);
    let ended = world.run().await;
    assert_eq!((ended.code, ended.failure().code.as_str()), (243, "NoCommand"), "{}", ended.stderr);
}

#[tokio::test]
async fn a_thousand_segments_become_one_file_in_their_order() {
    let segments: Vec<_> = (0..1000).map(|number| format!("address,state\n{number}@example.org,sent\n")).collect();
    let ended = assemble(true, &segments).await.run().await;
    assert_eq!(ended.code, 0, "{}", ended.stderr);
    let lines: String = (0..1000).map(|number| format!("{number}@example.org,sent\n")).collect();
    assert_eq!(ended.stored("sent/0"), format!("address,state\n{lines}"));
    let files = ended.commit().files;
    let file = files.iter().find(|file| file.output == "sent").unwrap();
    assert_eq!((file.path.as_str(), file.media_type.as_deref()), ("report/sent.csv", Some("text/csv")));
    let pages = ended.calls("GET /agent/v1/segments?output=sent&from=");
    let from: Vec<_> = pages.iter().map(|call| call.what.rsplit('=').next().unwrap().parse::<u32>().unwrap()).collect();
    assert_eq!(from, (0..10).map(|page| page * 100).collect::<Vec<_>>());
    assert_eq!(ended.world.kept("segment-"), 0, "segments that are appended are kept on the disk");
}

#[tokio::test]
async fn a_base_file_comes_first_and_its_header_is_the_one_that_is_kept() {
    for (header, expected) in [(true, "h\nold\n1\n2"), (false, "h\nold\nh\n1\nh\n2")] {
        // The base does not end with a line's end, and the second segment is empty.
        let world = assemble(header, &["h\n1\n", "", "h\n2"]).await;
        let base = world.keep(&world.secure_store(), "first/sent", b"h\nold");
        world.assembled(|outputs| outputs[0].base = Some(base));
        let ended = world.run().await;
        assert_eq!((ended.code, ended.stored("sent/0").as_str()), (0, expected), "{}", ended.stderr);
    }
}

#[tokio::test]
async fn nothing_to_put_together_is_an_empty_file() {
    let ended = assemble(true, &[""; 0]).await.run().await;
    assert_eq!((ended.code, ended.stored("sent/0").as_str()), (0, ""), "{}", ended.stderr);
}

#[tokio::test]
async fn several_outputs_and_the_list_of_failed_items_are_put_together() {
    let world = assemble(false, &["1\n", "2\n"]).await;
    world.give_segments("failures", &["{\"id\":1}\n", "{\"id\":2}\n"]);
    world.assembled(|outputs| {
        outputs.push(AssembledOutput { output: "failures".into(), header: false, segments: 2, base: None });
    });
    let failures = OutputDeclaration { failed_items: true, ..output("failures", "") };
    world.work(|work| work.outputs.push(failures));
    let ended = world.run().await;
    assert_eq!(ended.code, 0, "{}", ended.stderr);
    assert_eq!(ended.stored("sent/0"), "1\n2\n");
    assert_eq!(ended.stored("failures/0"), "{\"id\":1}\n{\"id\":2}\n");
    assert!(ended.commit().files.iter().any(|file| file.path == "failures.jsonl"));
    assert_eq!(ended.commit().items, None, "they were counted where they failed");
}

#[tokio::test]
async fn addresses_that_ran_out_are_asked_for_anew() {
    let world = assemble(false, &["1\n", "2\n", "3\n"]).await;
    let base = world.keep(&world.plain_store(), "first/sent", b"0\n");
    world.assembled(|outputs| outputs[0].base = Some(base));
    world.fail("GET store first/sent", 1, &Fault::Status(403));
    world.fail("GET store segments/sent/1", 2, &Fault::Status(403));
    world.fail("GET store segments/sent/2", 1, &Fault::Half);
    world.fail("GET /agent/v1/segments", 1, &Fault::Status(503));
    let ended = world.run().await;
    assert_eq!((ended.code, ended.stored("sent/0").as_str()), (0, "0\n1\n2\n3\n"), "{}", ended.stderr);
    assert_eq!(ended.calls("/assignment").len(), 2, "the base is part of the assignment");
    assert!(ended.calls("GET /agent/v1/segments?output=sent&from=1").len() >= 2);
}

#[tokio::test]
async fn a_segment_that_is_not_what_was_stored_is_never_part_of_a_file() {
    let world = assemble(false, &["1\n", "2\n"]).await;
    world.shared.lock().objects.get_mut("segments/sent/1").unwrap().bytes = b"3\n".to_vec();
    let ended = world.run().await;
    let failure = ended.failure();
    assert_eq!((ended.code, failure.code.as_str()), (242, "InputInvalid"), "{}", failure.message);
    assert!(failure.message.contains("segment 1 of the output \"sent\" is not what was stored"), "{}", failure.message);
}

#[tokio::test]
async fn a_list_of_other_segments_than_were_promised_is_refused() {
    for promised in [1, 3] {
        let world = assemble(false, &["1\n", "2\n"]).await;
        world.assembled(|outputs| outputs[0].segments = promised);
        let ended = world.run().await;
        let failure = ended.failure();
        assert_eq!((ended.code, failure.code.as_str()), (240, "GatewayUnusable"), "{}", failure.message);
        assert!(
            failure.message.contains(&format!("{promised} segments of the output \"sent\"")),
            "{}",
            failure.message
        );
    }
}

#[tokio::test]
async fn built_in_work_that_is_asked_to_stop_ends_at_once() {
    let world = assemble(false, &["1\n", "2\n"]).await;
    world.fail("GET store segments/sent/1", 1, &Fault::Hold(Arc::new(Notify::new())));
    let running = world.start();
    running.called("GET store segments/sent/1", 1).await;
    running.signal(Signal::SIGTERM);
    let ended = running.end().await;
    let failure = ended.failure();
    assert_eq!((ended.code, failure.code.as_str()), (143, "Terminated"));
    assert!(failure.message.starts_with("the pod was asked to stop before its work was done"), "{}", failure.message);
}
