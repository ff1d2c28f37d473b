//! The table of a backend's kernel objects.
//!
//! The table has two kinds of lock. Its mutex covers look-ups and counts only, never a system call. Each object has a
//! lock of its own: calls that pass its kernel names to the driver share the lock, and its destroy takes the lock
//! exclusively. So a sync on one thread cannot meet a destroy on another, which would be a use-after-free in the
//! vendor's driver (`docs/design/rknpu.md` §3.6), and a slow driver delays only the users of that object.
//!
//! An object that was created or imported n times ends with its nth release. The key `K` identifies an import of an
//! object that is in the table already.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::Arc;

use nix::errno::Errno;

use super::Object;
use crate::error::{Error, ErrorCode, Result};
use crate::handle::{Handle, Table};
use crate::sync::{Mutex, MutexGuard, RwLock};

/// A table of objects. `T` is the kernel's name of an object, `K` the key that identifies imports.
#[derive(Debug)]
pub(super) struct ObjectTable<K, T> {
    objects: Mutex<Objects<K, T>>,
}

#[derive(Debug)]
struct Objects<K, T> {
    table: Table<Entry<K, T>>,
    by_key: HashMap<K, Handle>,
}

#[derive(Debug)]
struct Entry<K, T> {
    object: Object,
    /// `None` once the object is being destroyed.
    native: Arc<RwLock<Option<T>>>,
    key: Option<K>,
    references: u32,
}

impl<K: Copy + Eq + Hash, T> ObjectTable<K, T> {
    pub(super) fn new() -> Self {
        Self { objects: Mutex::new(Objects { table: Table::new(), by_key: HashMap::new() }) }
    }

    fn objects(&self) -> MutexGuard<'_, Objects<K, T>> {
        self.objects.lock()
    }

    /// Inserts a new object and fills in its handle.
    pub(super) fn insert(&self, key: Option<K>, native: T, object: Object) -> Object {
        let mut objects = self.objects();
        objects.insert(key, native, object)
    }

    /// Adds a reference to the object with that key.
    pub(super) fn add_reference(&self, key: &K) -> Option<Object> {
        self.objects().add_reference(key)
    }

    /// Inserts an import. If another thread inserted it first, adds a reference to that object and returns `native`,
    /// which the caller has to undo.
    pub(super) fn insert_import(&self, key: Option<K>, native: T, object: Object) -> (Object, Option<T>) {
        let mut objects = self.objects();
        match key.and_then(|key| objects.add_reference(&key)) {
            Some(known) => (known, Some(native)),
            None => (objects.insert(key, native, object), None),
        }
    }

    /// Runs `call` with the kernel's name of the object. The object lives until `call` returns.
    pub(super) fn with<R>(
        &self,
        handle: Handle,
        name: &'static str,
        call: impl FnOnce(&T, &Object) -> Result<R>,
    ) -> Result<R> {
        let entry = self.objects().table.get(handle).map(|entry| (Arc::clone(&entry.native), entry.object.clone()));
        let (native, object) = entry.ok_or_else(|| stale(name))?;
        let native = native.read();
        call(native.as_ref().ok_or_else(|| stale(name))?, &object)
    }

    /// Drops a reference. With the last one, removes the object and returns it once no call uses it any more.
    pub(super) fn release(&self, handle: Handle, name: &'static str) -> Result<Option<(T, Object)>> {
        let mut objects = self.objects();
        let entry = objects.table.get_mut(handle).ok_or_else(|| stale(name))?;
        entry.references -= 1;
        if entry.references > 0 {
            return Ok(None);
        }
        let Some(entry) = objects.table.remove(handle) else { return Err(stale(name)) };
        if let Some(key) = entry.key {
            if objects.by_key.get(&key) == Some(&handle) {
                objects.by_key.remove(&key);
            }
        }
        drop(objects);
        let mut native = entry.native.write();
        Ok(native.take().map(|native| (native, entry.object)))
    }

    /// Removes and returns all remaining objects, when the backend itself ends.
    pub(super) fn drain(&mut self) -> Vec<T> {
        let objects = self.objects.get_mut();
        let handles: Vec<_> = objects.table.iter().map(|(handle, _)| handle).collect();
        objects.by_key.clear();
        handles
            .into_iter()
            .filter_map(|handle| objects.table.remove(handle))
            .filter_map(|entry| entry.native.write().take())
            .collect()
    }

    /// The number of objects, and their bytes.
    pub(super) fn held(&self) -> (usize, Option<u64>) {
        let objects = self.objects();
        (objects.table.len(), Some(objects.table.iter().map(|(_, entry)| entry.object.size).sum()))
    }

    pub(super) fn len(&self) -> usize {
        self.objects().table.len()
    }
}

impl<K: Copy + Eq + Hash, T> Objects<K, T> {
    fn insert(&mut self, key: Option<K>, native: T, mut object: Object) -> Object {
        let native = Arc::new(RwLock::new(Some(native)));
        let (handle, _) = self.table.insert_with(|handle| {
            object.handle = handle;
            Entry { object: object.clone(), native, key, references: 1 }
        });
        if let Some(key) = key {
            self.by_key.insert(key, handle);
        }
        object
    }

    fn add_reference(&mut self, key: &K) -> Option<Object> {
        let handle = *self.by_key.get(key)?;
        let entry = self.table.get_mut(handle)?;
        entry.references += 1;
        Some(Object { imported: true, ..entry.object.clone() })
    }
}

/// A placeholder until [`ObjectTable::insert`] fills in the handle.
pub(super) fn unnamed() -> Handle {
    Handle::from_raw(0)
}

/// The error for a handle without an object.
pub(super) fn stale(call: &'static str) -> Error {
    Error::new(ErrorCode::DeviceIo, format!("{call}: this device has no such object"))
        .syscall(call, Errno::EINVAL as i32)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::sync::mpsc;
    use std::thread;
    use std::time::Duration;

    fn object() -> Object {
        Object {
            handle: unnamed(),
            size: 4096,
            device_address: None,
            sram: 0,
            domain: None,
            cacheable: true,
            contiguous: false,
            zeroed: false,
            imported: false,
        }
    }

    #[test]
    fn the_last_release_returns_the_native_object_once() {
        let objects = ObjectTable::<u32, &str>::new();
        let made = objects.insert(Some(7), "gem", object());
        let (again, loser) = objects.insert_import(Some(7), "second", object());
        assert_eq!((again.handle, again.imported, loser), (made.handle, true, Some("second")));
        assert_eq!(objects.add_reference(&7).unwrap().handle, made.handle);
        assert_eq!(objects.len(), 1);
        for expected in [None, None, Some("gem")] {
            assert_eq!(objects.release(made.handle, "X").unwrap().map(|(native, _)| native), expected);
        }
        assert_eq!(objects.release(made.handle, "X").unwrap_err().errno(), Some(libc::EINVAL));
        assert!(objects.add_reference(&7).is_none());
        assert_eq!(objects.held(), (0, Some(0)));
    }

    #[test]
    fn an_object_does_not_end_while_a_call_uses_it() {
        let objects = Arc::new(ObjectTable::<u32, &str>::new());
        let handle = objects.insert(None, "gem", object()).handle;
        let (entered, wait) = mpsc::channel();
        let (go, leave) = mpsc::channel::<()>();
        let user = thread::spawn({
            let objects = Arc::clone(&objects);
            move || {
                objects.with(handle, "X", |_, _| {
                    entered.send(()).unwrap();
                    leave.recv().unwrap();
                    Ok(())
                })
            }
        });
        wait.recv().unwrap();
        let ender = thread::spawn({
            let objects = Arc::clone(&objects);
            move || objects.release(handle, "X").unwrap()
        });
        thread::sleep(Duration::from_millis(30));
        assert!(!ender.is_finished(), "the object was released during a call");
        assert!(objects.with(handle, "X", |_, _| Ok(())).is_err(), "a dead handle still works");
        go.send(()).unwrap();
        user.join().unwrap().unwrap();
        assert_eq!(ender.join().unwrap().map(|(native, _)| native), Some("gem"));
    }
}
