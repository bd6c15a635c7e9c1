// SPDX-License-Identifier: Apache-2.0
package org.clf.nio;

import java.nio.file.FileStore;
import java.nio.file.FileSystem;
import java.nio.file.FileSystems;
import java.nio.file.Path;
import java.nio.file.PathMatcher;
import java.nio.file.WatchService;
import java.nio.file.attribute.UserPrincipalLookupService;
import java.util.List;
import java.util.Set;
import org.clf.Owner;

/** One owner's files. */
final class ClfFileSystem extends FileSystem {
    private final ClfFileSystemProvider provider;
    private final String authority;
    private final Owner owner;
    private volatile boolean open = true;

    ClfFileSystem(ClfFileSystemProvider provider, String authority, Owner owner) {
        this.provider = provider;
        this.authority = authority;
        this.owner = owner;
    }

    String authority() {
        return authority;
    }

    Owner owner() {
        if (!open) {
            throw new java.nio.file.ClosedFileSystemException();
        }
        return owner;
    }

    @Override
    public ClfFileSystemProvider provider() {
        return provider;
    }

    /** Ends the connections; open readers and writers go on. */
    @Override
    public void close() {
        if (open) {
            open = false;
            provider.forget(authority);
            owner.close();
        }
    }

    @Override
    public boolean isOpen() {
        return open;
    }

    @Override
    public boolean isReadOnly() {
        return false;
    }

    @Override
    public String getSeparator() {
        return "/";
    }

    @Override
    public Iterable<Path> getRootDirectories() {
        return List.of(ClfPath.parse(this, "/"));
    }

    @Override
    public Iterable<FileStore> getFileStores() {
        return List.of();
    }

    @Override
    public Set<String> supportedFileAttributeViews() {
        return Set.of("basic");
    }

    @Override
    public Path getPath(String first, String... more) {
        StringBuilder text = new StringBuilder(first);
        for (String name : more) {
            if (!name.isEmpty()) {
                text.append(text.length() == 0 ? "" : "/").append(name);
            }
        }
        return ClfPath.parse(this, text.toString());
    }

    @Override
    public PathMatcher getPathMatcher(String syntaxAndPattern) {
        // Java's own globs, over names that look the same: separator and segments are those of Unix.
        PathMatcher matcher = FileSystems.getDefault().getPathMatcher(syntaxAndPattern);
        return path -> matcher.matches(Path.of(path.toString()));
    }

    @Override
    public UserPrincipalLookupService getUserPrincipalLookupService() {
        throw new UnsupportedOperationException("owners' files have no users");
    }

    @Override
    public WatchService newWatchService() {
        throw new UnsupportedOperationException("owners are not watched");
    }
}
