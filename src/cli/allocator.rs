//! What the process's allocator keeps for itself.

/// Has glibc give the memory of large buffers back as soon as they are freed.
///
/// Left alone, it learns from the first chunk's buffer that is freed to take others from its heaps,
/// one for each few threads, which keep what lies between: a node that takes 3 GiB with 48 MiB of
/// them under way peaked at 66 to 90 MiB, and with a fixed threshold at 42 to 47, for the same
/// processor time. Other systems' allocators are left as they are.
pub fn return_large_buffers() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    {
        // Chunks' buffers are larger; what is smaller comes and goes too often for pages of its own.
        const LARGE_BYTES: libc::c_int = 1 << 20;
        // SAFETY: it sets a number of the allocator's, which may be done at any time. One that it does
        // not take leaves it as it was.
        let _ = unsafe { libc::mallopt(libc::M_MMAP_THRESHOLD, LARGE_BYTES) };
    }
}
