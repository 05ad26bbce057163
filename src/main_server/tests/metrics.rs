//! What a Prometheus server is told.

use super::*;
use crate::metrics::Page;

#[test]
fn metrics_say_what_the_nodes_are_and_what_was_asked_and_refused() {
    let desk = Desk::new(LONG);
    let mut nodes = [desk.node()];
    desk.store(1, id(1), &mut nodes);
    desk.client().call(&Stat { paths: vec!["/".to_string()].into() }).expect("answered");
    let wrong = Invite { uses: Some(0), valid_s: None };
    assert_eq!(code(desk.client().call(&wrong)), FaultCode::Invalid);
    let fill = desk.server.metrics();
    let mut page = Page::default();
    fill(&mut page);
    let text = page.text();
    for line in [
        "p2pdfs_main_nodes{state=\"alive\"} 1\n",
        "p2pdfs_main_nodes{state=\"dead\"} 0\n",
        "p2pdfs_main_copies 1\n",
        "p2pdfs_main_requests_total{request=\"stat\"} 1\n",
        "p2pdfs_main_requests_total{request=\"stored\"} 1\n",
        "p2pdfs_main_faults_total{code=\"invalid\"} 1\n",
        "# TYPE p2pdfs_main_troubled_chunks gauge\n",
        "# TYPE p2pdfs_main_requests_total counter\n",
    ] {
        assert!(text.contains(line), "{line:?} is not in:\n{text}");
    }
    let mut again = Page::default();
    fill(&mut again);
    assert!(again.text().contains("p2pdfs_main_nodes{state=\"alive\"} 1\n"), "once is not enough");
}
