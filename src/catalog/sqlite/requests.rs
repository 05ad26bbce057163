//! Answers that are kept for the repeats of their requests.

use rusqlite::OptionalExtension;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::rows::{Done, Stop, time, time_before, unsigned};
use super::writer::Books;
use crate::catalog::{ANSWERS_KEPT, Refusal};
use crate::clock::WallTime;
use crate::ids::{AccountId, RequestId};

/// A request that changes names.
#[derive(Clone, Copy)]
pub(super) struct Request {
    pub account: AccountId,
    pub id: RequestId,
    /// The operation, as the table names it.
    pub kind: &'static str,
    pub now: WallTime,
}

/// Runs `operation`, unless it was answered before under this id: then the answer is that one.
/// An answer is kept when `is_kept` says so.
pub(super) fn once<T: Serialize + DeserializeOwned>(
    books: &mut Books,
    request: Request,
    operation: impl FnOnce(&mut Books) -> Done<T>,
    is_kept: impl FnOnce(&T) -> bool,
) -> Done<T> {
    if let Some(answer) = kept(books, request)? {
        return Ok(answer);
    }
    let answer = operation(books)?;
    if is_kept(&answer) {
        keep(books, request, &answer)?;
    }
    Ok(answer)
}

fn kept<T: DeserializeOwned>(books: &Books, request: Request) -> Done<Option<T>> {
    let sql = "SELECT account, kind, answered_at, answer FROM requests WHERE request = ?";
    let mut statement = books.conn.prepare_cached(sql)?;
    let row = statement.query_row((request.id.as_bytes(),), |row| {
        let account = AccountId(row.get(0)?);
        Ok((account, row.get::<_, String>(1)?, unsigned(row, 2)?, row.get::<_, String>(3)?))
    });
    let Some((account, kind, answered_at, answer)) = row.optional()? else { return Ok(None) };
    if WallTime(answered_at) + ANSWERS_KEPT <= request.now {
        let sql = "DELETE FROM requests WHERE request = ?";
        books.conn.prepare_cached(sql)?.execute((request.id.as_bytes(),))?;
        return Ok(None);
    }
    if account != request.account || kind != request.kind {
        return Err(Refusal::RequestReused(request.id).into());
    }
    let answer = serde_json::from_str(&answer);
    let id = request.id;
    Ok(Some(answer.map_err(|error| Stop::Damaged(format!("the answer to request {id}: {error}")))?))
}

fn keep<T: Serialize>(books: &Books, request: Request, answer: &T) -> Done<()> {
    let answer = serde_json::to_string(answer)
        .map_err(|error| Stop::Damaged(format!("an answer cannot be written down: {error}")))?;
    let sql = "INSERT INTO requests (request, account, kind, answered_at, answer)
               VALUES (?, ?, ?, ?, ?)";
    let now = time(request.now);
    let id = request.id.as_bytes();
    books.conn.prepare_cached(sql)?.execute((id, request.account.0, request.kind, now, answer))?;
    // More are forgotten than were added, so the table shrinks again after a busy day.
    let sql = "DELETE FROM requests WHERE answered_at <= ?
               AND number IN (SELECT number FROM requests ORDER BY number LIMIT 4)";
    books.conn.prepare_cached(sql)?.execute((time_before(request.now, ANSWERS_KEPT),))?;
    Ok(())
}
