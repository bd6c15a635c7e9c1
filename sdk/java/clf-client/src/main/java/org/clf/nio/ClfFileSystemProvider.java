// SPDX-License-Identifier: Apache-2.0
package org.clf.nio;

import java.io.IOException;
import java.io.InputStream;
import java.io.OutputStream;
import java.net.URI;
import java.nio.channels.SeekableByteChannel;
import java.nio.file.AccessMode;
import java.nio.file.CopyOption;
import java.nio.file.DirectoryStream;
import java.nio.file.FileAlreadyExistsException;
import java.nio.file.FileStore;
import java.nio.file.FileSystem;
import java.nio.file.FileSystemAlreadyExistsException;
import java.nio.file.FileSystemNotFoundException;
import java.nio.file.Files;
import java.nio.file.LinkOption;
import java.nio.file.NoSuchFileException;
import java.nio.file.NotDirectoryException;
import java.nio.file.OpenOption;
import java.nio.file.Path;
import java.nio.file.ReadOnlyFileSystemException;
import java.nio.file.StandardCopyOption;
import java.nio.file.StandardOpenOption;
import java.nio.file.attribute.BasicFileAttributeView;
import java.nio.file.attribute.BasicFileAttributes;
import java.nio.file.attribute.FileAttribute;
import java.nio.file.attribute.FileAttributeView;
import java.nio.file.spi.FileSystemProvider;
import java.util.HashMap;
import java.util.Iterator;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.TreeMap;
import org.clf.Clf;
import org.clf.ClfException;
import org.clf.Entry;
import org.clf.Owner;
import org.clf.Writer;

/**
 * {@code clf://owner/path} for {@code java.nio.file.Files}.
 *
 * <p>Each opening of a file, and each question about one, is a transfer of its own; attributes and folders need the right
 * to list. That a file does not exist is said only after a complete listing.
 *
 * <p>{@link Files#newOutputStream} gives a {@link Writer}, and nothing is published before its {@code commit}: Java closes
 * streams on failures, too, so closing alone gives the result up. {@link #upload} puts a whole file back and
 * commits. Nothing is overwritten, deleted or moved.
 */
public final class ClfFileSystemProvider extends FileSystemProvider {
    /** The scheme of URIs. */
    public static final String SCHEME = "clf";

    private static final Set<OpenOption> WRITING =
            Set.of(StandardOpenOption.WRITE, StandardOpenOption.CREATE, StandardOpenOption.CREATE_NEW,
                    StandardOpenOption.TRUNCATE_EXISTING);

    private final Map<String, ClfFileSystem> systems = new HashMap<>();

    /** Made by Java's service loader. */
    public ClfFileSystemProvider() {}

    /**
     * Makes an owner known that was connected otherwise than by clf.toml.
     *
     * @param authority what stands for it in URIs
     * @param owner a connection; closed with the file system
     * @return its file system
     */
    public static FileSystem mount(String authority, Owner owner) {
        for (FileSystemProvider provider : installedProviders()) {
            if (provider instanceof ClfFileSystemProvider installed) {
                return installed.add(authority, owner);
            }
        }
        return new ClfFileSystemProvider().add(authority, owner);
    }

    private synchronized FileSystem add(String authority, Owner owner) {
        if (systems.containsKey(authority)) {
            throw new FileSystemAlreadyExistsException(authority);
        }
        ClfFileSystem system = new ClfFileSystem(this, authority, owner);
        systems.put(authority, system);
        return system;
    }

    synchronized void forget(String authority) {
        systems.remove(authority);
    }

    private static String authority(URI uri) {
        if (!SCHEME.equals(uri.getScheme()) || uri.getRawAuthority() == null || uri.getRawUserInfo() != null
                || uri.getRawQuery() != null || uri.getRawFragment() != null) {
            throw new IllegalArgumentException("'" + uri + "' is not like clf://owner/path");
        }
        return uri.getAuthority();
    }

    @Override
    public String getScheme() {
        return SCHEME;
    }

    @Override
    public synchronized FileSystem newFileSystem(URI uri, Map<String, ?> environment) throws IOException {
        String authority = authority(uri);
        if (systems.containsKey(authority)) {
            throw new FileSystemAlreadyExistsException(authority);
        }
        return add(authority, Clf.connect(authority));
    }

    @Override
    public synchronized FileSystem getFileSystem(URI uri) {
        ClfFileSystem system = systems.get(authority(uri));
        if (system == null) {
            throw new FileSystemNotFoundException(uri.toString());
        }
        return system;
    }

    @Override
    public synchronized Path getPath(URI uri) {
        ClfFileSystem system = systems.get(authority(uri));
        if (system == null) {
            try {
                system = (ClfFileSystem) newFileSystem(uri, Map.of());
            } catch (IOException error) {
                FileSystemNotFoundException absent = new FileSystemNotFoundException(error.getMessage());
                absent.initCause(error);
                throw absent;
            }
        }
        return system.getPath(uri.getPath().isEmpty() ? "/" : uri.getPath());
    }

    private static Owner owner(Path path) {
        return ClfPath.of(path).getFileSystem().owner();
    }

    private static String name(Path path) {
        return ClfPath.of(path).name();
    }

    @Override
    public InputStream newInputStream(Path path, OpenOption... options) throws IOException {
        readingOnly(Set.of(options));
        return owner(path).newInputStream(name(path));
    }

    private static void readingOnly(Set<? extends OpenOption> options) {
        for (OpenOption option : options) {
            if (option != StandardOpenOption.READ && !(option instanceof LinkOption)) {
                throw new UnsupportedOperationException(option + " does not go with reading");
            }
        }
    }

    /** A {@link Writer}: call its commit. */
    @Override
    public OutputStream newOutputStream(Path path, OpenOption... options) throws IOException {
        for (OpenOption option : options) {
            if (!WRITING.contains(option)) {
                throw new UnsupportedOperationException(option + ": results are written whole, and once");
            }
        }
        return create(path);
    }

    private static Writer create(Path path) throws IOException {
        try {
            return owner(path).create(name(path));
        } catch (ClfException error) {
            if (error.code().equals("result_exists")) {
                throw (IOException) new FileAlreadyExistsException(path.toString()).initCause(error);
            }
            throw error;
        }
    }

    /** For reading; results are written with newOutputStream. */
    @Override
    public SeekableByteChannel newByteChannel(
            Path path, Set<? extends OpenOption> options, FileAttribute<?>... attributes) throws IOException {
        readingOnly(options);
        return owner(path).open(name(path));
    }

    @Override
    public DirectoryStream<Path> newDirectoryStream(Path folder, DirectoryStream.Filter<? super Path> filter)
            throws IOException {
        String name = name(folder);
        String below = name.isEmpty() ? "" : name + "/";
        Map<String, Path> children = new TreeMap<>();
        for (Entry entry : owner(folder).list(name.isEmpty() ? "/" : below)) {
            String child = entry.path().substring(below.length()).split("/", 2)[0];
            children.put(child, folder.resolve(child));
        }
        if (children.isEmpty() && !name.isEmpty()) {
            throw new NotDirectoryException(folder.toString());
        }
        List<Path> accepted = new java.util.ArrayList<>();
        for (Path child : children.values()) {
            if (filter.accept(child)) {
                accepted.add(child);
            }
        }
        return new DirectoryStream<>() {
            private boolean used;

            @Override
            public Iterator<Path> iterator() {
                if (used) {
                    throw new IllegalStateException("a directory stream is walked once");
                }
                used = true;
                return accepted.iterator();
            }

            @Override
            public void close() {
                used = true;
            }
        };
    }

    /** From what a complete, sealed listing of the file's folder says. */
    private static ClfAttributes attributes(Path path) throws IOException {
        String name = name(path);
        if (name.isEmpty()) {
            return new ClfAttributes(null);
        }
        int slash = name.lastIndexOf('/');
        for (Entry entry : owner(path).list(slash < 0 ? "/" : name.substring(0, slash + 1))) {
            if (entry.path().equals(name)) {
                return new ClfAttributes(entry);
            }
            if (entry.path().startsWith(name + "/")) {
                return new ClfAttributes(null);
            }
        }
        throw new NoSuchFileException(path.toString());
    }

    @Override
    public void checkAccess(Path path, AccessMode... modes) throws IOException {
        for (AccessMode mode : modes) {
            if (mode != AccessMode.READ) {
                throw new java.nio.file.AccessDeniedException(path.toString(), null, "files of owners are read only");
            }
        }
        attributes(path);
    }

    @Override
    @SuppressWarnings("unchecked") // the type was compared
    public <A extends BasicFileAttributes> A readAttributes(Path path, Class<A> type, LinkOption... options)
            throws IOException {
        if (type != BasicFileAttributes.class) {
            throw new UnsupportedOperationException(type.getName());
        }
        return (A) attributes(path);
    }

    @Override
    public Map<String, Object> readAttributes(Path path, String wanted, LinkOption... options) throws IOException {
        ClfAttributes found = attributes(path);
        Map<String, Object> all = new HashMap<>();
        all.put("lastModifiedTime", found.lastModifiedTime());
        all.put("lastAccessTime", found.lastAccessTime());
        all.put("creationTime", found.creationTime());
        all.put("size", found.size());
        all.put("isRegularFile", found.isRegularFile());
        all.put("isDirectory", found.isDirectory());
        all.put("isSymbolicLink", false);
        all.put("isOther", false);
        all.put("fileKey", found.fileKey());
        String names = wanted.startsWith("basic:") ? wanted.substring(6) : wanted;
        if (names.contains(":")) {
            throw new UnsupportedOperationException(wanted);
        }
        if (!names.equals("*")) {
            Set<String> chosen = Set.of(names.split(","));
            if (!all.keySet().containsAll(chosen)) {
                throw new IllegalArgumentException(wanted);
            }
            all.keySet().retainAll(chosen);
        }
        return all;
    }

    @Override
    @SuppressWarnings("unchecked") // the type was compared
    public <V extends FileAttributeView> V getFileAttributeView(Path path, Class<V> type, LinkOption... options) {
        if (type != BasicFileAttributeView.class) {
            return null;
        }
        return (V) new BasicFileAttributeView() {
            @Override
            public String name() {
                return "basic";
            }

            @Override
            public BasicFileAttributes readAttributes() throws IOException {
                return attributes(path);
            }

            @Override
            public void setTimes(
                    java.nio.file.attribute.FileTime modified,
                    java.nio.file.attribute.FileTime accessed,
                    java.nio.file.attribute.FileTime created) {
                throw new ReadOnlyFileSystemException();
            }
        };
    }

    /** Within one owner there is no copying; between file systems Java asks newInputStream and newOutputStream. */
    @Override
    public void copy(Path source, Path target, CopyOption... options) throws IOException {
        for (CopyOption option : options) {
            if (option == StandardCopyOption.ATOMIC_MOVE || option == StandardCopyOption.COPY_ATTRIBUTES) {
                throw new UnsupportedOperationException(option.toString());
            }
        }
        upload(source, target);
    }

    /**
     * Puts a file of any file system back to an owner, and commits.
     *
     * @param source the file
     * @param target its name at the owner
     * @return the owner's receipt
     * @throws IOException where it is not published
     */
    public static org.clf.Receipt upload(Path source, Path target) throws IOException {
        try (InputStream in = Files.newInputStream(source);
                Writer out = create(target)) {
            try {
                in.transferTo(out);
            } catch (IOException | RuntimeException error) {
                out.abort();
                throw error;
            }
            return out.commit();
        }
    }

    @Override
    public boolean isSameFile(Path path, Path other) {
        return path.toAbsolutePath().normalize().equals(other.toAbsolutePath().normalize());
    }

    @Override
    public boolean isHidden(Path path) {
        return false;
    }

    @Override
    public FileStore getFileStore(Path path) {
        throw new UnsupportedOperationException("owners say nothing of their disks");
    }

    @Override
    public void createDirectory(Path folder, FileAttribute<?>... attributes) {
        throw new UnsupportedOperationException("folders come with the results in them");
    }

    @Override
    public void delete(Path path) {
        throw new ReadOnlyFileSystemException();
    }

    @Override
    public void move(Path source, Path target, CopyOption... options) {
        throw new ReadOnlyFileSystemException();
    }

    @Override
    public void setAttribute(Path path, String attribute, Object value, LinkOption... options) {
        throw new ReadOnlyFileSystemException();
    }
}
