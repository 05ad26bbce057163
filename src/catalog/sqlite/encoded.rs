//! Rows as bytes: what the journal keeps of the catalog, and what a catalog is rebuilt from.
//!
//! A *body* is a sequence of items. Numbers are LEB128, signed ones zigzag-encoded before. The first
//! body of a snapshot defines the tables that all later ones refer to by number.

use rusqlite::types::ValueRef;

use super::writer::Sums;

const SCHEMA: u8 = 1;
const TABLE: u8 = 2;
const ROW: u8 = 3;
const GONE: u8 = 4;
const SUMS: u8 = 5;

const NULL: u8 = 0;
const INTEGER: u8 = 1;
const REAL: u8 = 2;
const TEXT: u8 = 3;
const BLOB: u8 = 4;

/// One item of a body.
#[derive(Debug, PartialEq)]
pub(super) enum Item<'a> {
    /// A statement that makes a table or an index.
    Schema(&'a str),
    /// The next table, in the order of the tables' numbers, and its columns beside the rowid.
    Table { name: &'a str, columns: Vec<&'a str> },
    /// A row as it is. No row of this number is there before.
    Row { table: usize, rowid: i64, values: Vec<ValueRef<'a>> },
    /// A row that may have been there, and is to be taken away.
    Gone { table: usize, rowid: i64 },
    /// A boundary: what the catalog sums up to here.
    Sums(Sums),
}

/// A body in the making.
#[derive(Debug, Default)]
pub(super) struct Body(pub Vec<u8>);

impl Body {
    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub fn schema(&mut self, sql: &str) {
        self.0.push(SCHEMA);
        self.bytes(sql.as_bytes());
    }

    pub fn table(&mut self, name: &str, columns: &[String]) {
        self.0.push(TABLE);
        self.bytes(name.as_bytes());
        self.number(columns.len() as u64);
        columns.iter().for_each(|column| self.bytes(column.as_bytes()));
    }

    pub fn gone(&mut self, table: usize, rowid: i64) {
        self.0.push(GONE);
        self.number(table as u64);
        self.signed(rowid);
    }

    /// Adds a row's values, which begin at column 1 of the result.
    pub fn row(
        &mut self,
        table: usize,
        rowid: i64,
        columns: usize,
        row: &rusqlite::Row<'_>,
    ) -> rusqlite::Result<()> {
        self.0.push(ROW);
        self.number(table as u64);
        self.signed(rowid);
        self.number(columns as u64);
        for column in 1..=columns {
            self.value(row.get_ref(column)?);
        }
        Ok(())
    }

    pub fn sums(&mut self, sums: &Sums) {
        self.0.push(SUMS);
        let Sums { next, files, chunks, copies, condemned, unknown } = *sums;
        for number in [next, files, chunks, copies, condemned, unknown] {
            self.number(number);
        }
    }

    fn value(&mut self, value: ValueRef<'_>) {
        match value {
            ValueRef::Null => self.0.push(NULL),
            ValueRef::Integer(number) => {
                self.0.push(INTEGER);
                self.signed(number);
            }
            ValueRef::Real(number) => {
                self.0.push(REAL);
                self.0.extend_from_slice(&number.to_bits().to_be_bytes());
            }
            ValueRef::Text(text) => {
                self.0.push(TEXT);
                self.bytes(text);
            }
            ValueRef::Blob(blob) => {
                self.0.push(BLOB);
                self.bytes(blob);
            }
        }
    }

    fn bytes(&mut self, bytes: &[u8]) {
        self.number(bytes.len() as u64);
        self.0.extend_from_slice(bytes);
    }

    fn signed(&mut self, number: i64) {
        self.number(((number << 1) ^ (number >> 63)) as u64);
    }

    fn number(&mut self, mut number: u64) {
        while number >= 0x80 {
            self.0.push(number as u8 | 0x80);
            number >>= 7;
        }
        self.0.push(number as u8);
    }
}

/// The items of a body. `None` where it is not one.
pub(super) struct Items<'a>(pub &'a [u8]);

impl<'a> Items<'a> {
    pub fn is_at_end(&self) -> bool {
        self.0.is_empty()
    }

    pub fn next(&mut self) -> Option<Item<'a>> {
        match self.byte()? {
            SCHEMA => Some(Item::Schema(self.text()?)),
            TABLE => {
                let name = self.text()?;
                let count = self.count()?;
                let columns = (0..count).map(|_| self.text()).collect::<Option<_>>()?;
                Some(Item::Table { name, columns })
            }
            ROW => {
                let (table, rowid, count) = (self.count()?, self.signed()?, self.count()?);
                let values = (0..count).map(|_| self.value()).collect::<Option<_>>()?;
                Some(Item::Row { table, rowid, values })
            }
            GONE => Some(Item::Gone { table: self.count()?, rowid: self.signed()? }),
            SUMS => Some(Item::Sums(Sums {
                next: self.number()?,
                files: self.number()?,
                chunks: self.number()?,
                copies: self.number()?,
                condemned: self.number()?,
                unknown: self.number()?,
            })),
            _ => None,
        }
    }

    fn value(&mut self) -> Option<ValueRef<'a>> {
        match self.byte()? {
            NULL => Some(ValueRef::Null),
            INTEGER => Some(ValueRef::Integer(self.signed()?)),
            REAL => {
                let (bits, rest) = self.0.split_first_chunk()?;
                self.0 = rest;
                Some(ValueRef::Real(f64::from_bits(u64::from_be_bytes(*bits))))
            }
            TEXT => Some(ValueRef::Text(self.bytes()?)),
            BLOB => Some(ValueRef::Blob(self.bytes()?)),
            _ => None,
        }
    }

    fn text(&mut self) -> Option<&'a str> {
        std::str::from_utf8(self.bytes()?).ok()
    }

    fn bytes(&mut self) -> Option<&'a [u8]> {
        let length = usize::try_from(self.number()?).ok()?;
        let (bytes, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(bytes)
    }

    fn byte(&mut self) -> Option<u8> {
        let (byte, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*byte)
    }

    /// A number of tables, columns or such, of which there are few.
    fn count(&mut self) -> Option<usize> {
        self.number().filter(|count| *count < 4096).map(|count| count as usize)
    }

    fn signed(&mut self) -> Option<i64> {
        let number = self.number()?;
        Some((number >> 1) as i64 ^ -((number & 1) as i64))
    }

    fn number(&mut self) -> Option<u64> {
        let mut number = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            number |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Some(number);
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_encoded_is_decoded_and_what_is_cut_off_is_not() {
        let mut body = Body::default();
        body.schema("CREATE TABLE t (a)");
        body.table("t", &["a".to_string(), "b".to_string()]);
        body.gone(3, i64::MIN);
        let sums =
            Sums { next: u64::MAX, files: 0, chunks: 300, copies: 1, condemned: 2, unknown: 1 };
        body.sums(&sums);
        let conn = rusqlite::Connection::open_in_memory().expect("a database");
        let sql = "SELECT 7, NULL, -5, 0.5, 'text', x'00ff', 9223372036854775807";
        conn.query_row(sql, (), |row| body.row(0, -1, 6, row)).expect("a row");
        let mut items = Items(&body.0);
        assert_eq!(items.next(), Some(Item::Schema("CREATE TABLE t (a)")));
        assert_eq!(items.next(), Some(Item::Table { name: "t", columns: vec!["a", "b"] }));
        assert_eq!(items.next(), Some(Item::Gone { table: 3, rowid: i64::MIN }));
        assert_eq!(items.next(), Some(Item::Sums(sums)));
        let values = vec![
            ValueRef::Null,
            ValueRef::Integer(-5),
            ValueRef::Real(0.5),
            ValueRef::Text(b"text"),
            ValueRef::Blob(&[0, 255]),
            ValueRef::Integer(i64::MAX),
        ];
        assert_eq!(items.next(), Some(Item::Row { table: 0, rowid: -1, values }));
        assert!(items.is_at_end());
        for cut in 1..body.len() {
            let mut items = Items(&body.0[..cut]);
            while !items.is_at_end() && items.next().is_some() {}
        }
        assert_eq!(Items(&[99]).next(), None);
    }
}
