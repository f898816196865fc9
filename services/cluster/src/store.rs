//! The database of what must outlive the head: redb on the data partition.
//!
//! redb commits by copy-on-write with checksums: after kill -9 or a power cut at any moment the database holds
//! the last committed transaction. A file that cannot be used is put aside, never deleted, and a new one begun:
//! a head without its history still serves.

use std::path::{Path, PathBuf};

use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition};

use crate::state::Record;

/// Records by MAC, as JSON.
const RECORDS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("records");

/// Numbers about the database itself.
const META: TableDefinition<'_, &str, u64> = TableDefinition::new("meta");

/// Changes when a reader of the old layout could not read the new one.
const SCHEMA: u64 = 1;

/// The head has little memory, and the records of 10,000 boards fill some 20 MiB on the card.
const CACHE_BYTES: usize = 1024 * 1024;

/// Why the database could not be used.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The database refuses.
    #[error("the state database {path}")]
    Database {
        /// Its file.
        path: PathBuf,
        /// Why.
        #[source]
        source: redb::Error,
    },
    /// A newer version has written it.
    #[error("the state database {path} has schema {found}, this version knows {SCHEMA}")]
    Schema {
        /// Its file.
        path: PathBuf,
        /// What it has.
        found: u64,
    },
    /// A record could not be written as JSON.
    #[error("a record cannot be written as JSON")]
    Record(#[source] serde_json::Error),
}

/// The open database.
#[derive(Debug)]
pub struct Store {
    path: PathBuf,
    database: Database,
}

impl Store {
    /// Opens the database, or makes it.
    ///
    /// # Errors
    /// When the file cannot be used as a database of this schema.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        let failed = |source| StoreError::Database { path: path.to_owned(), source };
        let database =
            Database::builder().set_cache_size(CACHE_BYTES).create(path).map_err(|e| failed(e.into()))?;
        let store = Self { path: path.to_owned(), database };
        store.prepare()?;
        Ok(store)
    }

    /// As [`Store::open`]; a file that cannot be used is renamed to `*.unusable` first. Tells what was wrong with it.
    ///
    /// # Errors
    /// When not even a new database can be made.
    pub fn open_or_replace(path: &Path) -> Result<(Self, Option<StoreError>), StoreError> {
        match Self::open(path) {
            Ok(store) => Ok((store, None)),
            Err(reason) => {
                // If the rename fails, so does the second attempt, and says why.
                let _ = std::fs::rename(path, path.with_extension("unusable"));
                Ok((Self::open(path)?, Some(reason)))
            }
        }
    }

    /// Every record; those that cannot be read are left out and counted.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub fn records(&self) -> Result<(Vec<Record>, usize), StoreError> {
        let read = || -> Result<_, redb::Error> {
            let table = self.database.begin_read()?.open_table(RECORDS)?;
            let (mut records, mut unreadable) = (Vec::new(), 0);
            for entry in table.iter()? {
                let (_, value) = entry?;
                match serde_json::from_slice(value.value()) {
                    Ok(record) => records.push(record),
                    Err(_) => unreadable += 1,
                }
            }
            Ok((records, unreadable))
        };
        read().map_err(|source| self.failed(source))
    }

    /// Writes records in one transaction; durable when this returns.
    ///
    /// # Errors
    /// When they could not be made durable; then none of them was written.
    pub fn keep(&self, records: &[Record]) -> Result<(), StoreError> {
        let encoded: Vec<(&str, Vec<u8>)> = records
            .iter()
            .map(|record| Ok((record.mac.as_str(), serde_json::to_vec(record).map_err(StoreError::Record)?)))
            .collect::<Result<_, StoreError>>()?;
        let write = || -> Result<(), redb::Error> {
            let transaction = self.database.begin_write()?;
            {
                let mut table = transaction.open_table(RECORDS)?;
                for (mac, bytes) in &encoded {
                    table.insert(*mac, bytes.as_slice())?;
                }
            }
            transaction.commit()?;
            Ok(())
        };
        write().map_err(|source| self.failed(source))
    }

    fn prepare(&self) -> Result<(), StoreError> {
        let prepare = || -> Result<u64, redb::Error> {
            let transaction = self.database.begin_write()?;
            let found = {
                let mut meta = transaction.open_table(META)?;
                let found = meta.get("schema")?.map(|value| value.value());
                if found.is_none() {
                    meta.insert("schema", SCHEMA)?;
                }
                transaction.open_table(RECORDS)?;
                found.unwrap_or(SCHEMA)
            };
            transaction.commit()?;
            Ok(found)
        };
        match prepare().map_err(|source| self.failed(source))? {
            SCHEMA => Ok(()),
            found => Err(StoreError::Schema { path: self.path.clone(), found }),
        }
    }

    fn failed(&self, source: redb::Error) -> StoreError {
        StoreError::Database { path: self.path.clone(), source }
    }
}

#[cfg(test)]
mod tests;
