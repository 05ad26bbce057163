//! SeaweedFS's fastest way for small files: its master assigns a number, and the bytes go straight to
//! a volume server, and are got from there without anyone being asked where they are.

use std::collections::HashMap;
use std::io::Write;

use p2pdfs::cli::exit::Failure;
use serde::Deserialize;

use crate::http::{Body, Http};
use crate::weed::{COLLECTION, SeaweedFs, parse, refused};

/// Where a file is: what the master assigns.
#[derive(Debug, Clone, Deserialize)]
pub struct Place {
    /// The volume's number, a comma, and the file's.
    pub fid: String,
    /// The volume server.
    pub url: String,
}

impl Place {
    /// The number of the volume.
    pub fn volume(&self) -> &str {
        self.fid.split(',').next().unwrap_or_default()
    }

    /// The place with that number of those that were assigned together.
    pub fn of_several(&self, number: u64) -> Place {
        match number {
            0 => self.clone(),
            number => Place { fid: format!("{}_{number}", self.fid), url: self.url.clone() },
        }
    }
}

/// The connections of one thread.
pub struct Native<'a> {
    cluster: &'a SeaweedFs,
    master: Http,
    volume_servers: HashMap<String, Http>,
    reply: Vec<u8>,
    /// Added to the path of each put.
    query: &'static str,
}

impl<'a> Native<'a> {
    /// `is_synced`: a put is answered only once both copies are synced.
    pub fn new(cluster: &'a SeaweedFs, is_synced: bool) -> Result<Native<'a>, Failure> {
        Ok(Native {
            cluster,
            master: cluster.http(&cluster.master)?,
            volume_servers: HashMap::new(),
            reply: Vec::new(),
            query: if is_synced { "?fsync=true" } else { "" },
        })
    }

    /// Asks for places for so many files, all in one volume.
    pub fn assign(&mut self, count: u64) -> Result<Place, Failure> {
        self.reply.clear();
        let path = format!("/dir/assign?collection={COLLECTION}&count={count}");
        let asked = self.master.get(&path, &mut self.reply);
        asked.map_err(|error| refused(&error))?;
        parse(&self.reply)
    }

    pub fn put(&mut self, place: &Place, bytes: &[u8]) -> Result<(), Failure> {
        let path = format!("/{}{}", place.fid, self.query);
        let put = self.volume_server(&place.url)?.put(&path, &Body::Bytes(bytes));
        put.map(drop).map_err(|error| refused(&error))
    }

    pub fn get(&mut self, place: &Place, sink: &mut dyn Write) -> Result<(), Failure> {
        let got = self.volume_server(&place.url)?.get(&format!("/{}", place.fid), sink);
        got.map_err(|error| refused(&error))
    }

    fn volume_server(&mut self, url: &str) -> Result<&mut Http, Failure> {
        if !self.volume_servers.contains_key(url) {
            self.volume_servers.insert(url.to_string(), self.cluster.http(url)?);
        }
        Ok(self.volume_servers.get_mut(url).expect("it was put there just now"))
    }
}
