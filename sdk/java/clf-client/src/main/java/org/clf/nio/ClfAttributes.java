// SPDX-License-Identifier: Apache-2.0
package org.clf.nio;

import java.nio.file.attribute.BasicFileAttributes;
import java.nio.file.attribute.FileTime;
import java.util.concurrent.TimeUnit;
import org.clf.Entry;

/** What an owner's listing says of a file; `entry` is null for a folder. */
record ClfAttributes(Entry entry) implements BasicFileAttributes {
    @Override
    public FileTime lastModifiedTime() {
        return FileTime.from(entry == null ? 0 : entry.modified(), TimeUnit.SECONDS);
    }

    @Override
    public FileTime lastAccessTime() {
        return lastModifiedTime();
    }

    @Override
    public FileTime creationTime() {
        return lastModifiedTime();
    }

    @Override
    public boolean isRegularFile() {
        return entry != null;
    }

    @Override
    public boolean isDirectory() {
        return entry == null;
    }

    @Override
    public boolean isSymbolicLink() {
        return false;
    }

    @Override
    public boolean isOther() {
        return false;
    }

    @Override
    public long size() {
        return entry == null ? 0 : entry.size();
    }

    /** The version, which changes with the content. */
    @Override
    public Object fileKey() {
        return entry == null ? null : entry.etag();
    }
}
