// SPDX-License-Identifier: Apache-2.0
package org.clf.nio;

import java.io.IOException;
import java.net.URI;
import java.net.URISyntaxException;
import java.nio.file.LinkOption;
import java.nio.file.Path;
import java.nio.file.ProviderMismatchException;
import java.nio.file.WatchEvent;
import java.nio.file.WatchKey;
import java.nio.file.WatchService;
import java.util.ArrayList;
import java.util.List;

/** A name at an owner. Absolute ones begin with a slash, which the protocol's names do not have. */
final class ClfPath implements Path {
    private final ClfFileSystem system;
    private final boolean absolute;
    private final List<String> names;

    private ClfPath(ClfFileSystem system, boolean absolute, List<String> names) {
        this.system = system;
        this.absolute = absolute;
        this.names = names;
    }

    static ClfPath parse(ClfFileSystem system, String text) {
        List<String> names = new ArrayList<>();
        for (String name : text.split("/")) {
            if (!name.isEmpty()) {
                names.add(name);
            }
        }
        return new ClfPath(system, text.startsWith("/"), List.copyOf(names));
    }

    static ClfPath of(Path path) {
        if (!(path instanceof ClfPath known)) {
            throw new ProviderMismatchException(String.valueOf(path));
        }
        return known;
    }

    /** The protocol's name of a file; empty for the root. */
    String name() {
        return String.join("/", ((ClfPath) toAbsolutePath().normalize()).names);
    }

    @Override
    public ClfFileSystem getFileSystem() {
        return system;
    }

    @Override
    public boolean isAbsolute() {
        return absolute;
    }

    @Override
    public Path getRoot() {
        return absolute ? new ClfPath(system, true, List.of()) : null;
    }

    @Override
    public Path getFileName() {
        return names.isEmpty() ? null : getName(names.size() - 1);
    }

    @Override
    public Path getParent() {
        if (names.isEmpty() || names.size() == 1 && !absolute) {
            return null;
        }
        return new ClfPath(system, absolute, names.subList(0, names.size() - 1));
    }

    @Override
    public int getNameCount() {
        return names.size();
    }

    @Override
    public Path getName(int index) {
        return subpath(index, index + 1);
    }

    @Override
    public Path subpath(int from, int to) {
        if (from < 0 || to > names.size() || from >= to) {
            throw new IllegalArgumentException("no names " + from + " to " + to + " in " + this);
        }
        return new ClfPath(system, false, names.subList(from, to));
    }

    @Override
    public boolean startsWith(Path other) {
        return other instanceof ClfPath path
                && path.system == system
                && path.absolute == absolute
                && path.names.size() <= names.size()
                && names.subList(0, path.names.size()).equals(path.names);
    }

    @Override
    public boolean endsWith(Path other) {
        if (!(other instanceof ClfPath path) || path.system != system || path.names.size() > names.size()) {
            return false;
        }
        if (path.absolute) {
            return equals(path);
        }
        return names.subList(names.size() - path.names.size(), names.size()).equals(path.names);
    }

    @Override
    public Path normalize() {
        List<String> kept = new ArrayList<>();
        for (String name : names) {
            if (name.equals("..") && !kept.isEmpty() && !kept.get(kept.size() - 1).equals("..")) {
                kept.remove(kept.size() - 1);
            } else if (!name.equals(".") && !(name.equals("..") && absolute)) {
                kept.add(name);
            }
        }
        return new ClfPath(system, absolute, List.copyOf(kept));
    }

    @Override
    public Path resolve(Path other) {
        ClfPath path = of(other);
        if (path.absolute) {
            return path;
        }
        List<String> joined = new ArrayList<>(names);
        joined.addAll(path.names);
        return new ClfPath(system, absolute, List.copyOf(joined));
    }

    @Override
    public Path relativize(Path other) {
        ClfPath path = of(other);
        if (path.absolute != absolute || path.system != system) {
            throw new IllegalArgumentException("'" + other + "' and '" + this + "' have no common root");
        }
        int same = 0;
        while (same < Math.min(names.size(), path.names.size()) && names.get(same).equals(path.names.get(same))) {
            same++;
        }
        List<String> found = new ArrayList<>();
        for (int i = same; i < names.size(); i++) {
            found.add("..");
        }
        found.addAll(path.names.subList(same, path.names.size()));
        return new ClfPath(system, false, List.copyOf(found));
    }

    @Override
    public URI toUri() {
        try {
            return new URI(ClfFileSystemProvider.SCHEME, system.authority(), toAbsolutePath().toString(), null, null);
        } catch (URISyntaxException error) {
            throw new IllegalStateException(error);
        }
    }

    @Override
    public Path toAbsolutePath() {
        return absolute ? this : new ClfPath(system, true, names);
    }

    @Override
    public Path toRealPath(LinkOption... options) throws IOException {
        Path real = toAbsolutePath().normalize();
        system.provider().checkAccess(real);
        return real;
    }

    @Override
    public WatchKey register(WatchService watcher, WatchEvent.Kind<?>[] events, WatchEvent.Modifier... modifiers) {
        throw new UnsupportedOperationException("owners are not watched");
    }

    @Override
    public int compareTo(Path other) {
        return toString().compareTo(of(other).toString());
    }

    @Override
    public boolean equals(Object other) {
        return other instanceof ClfPath path
                && path.system == system
                && path.absolute == absolute
                && path.names.equals(names);
    }

    @Override
    public int hashCode() {
        return names.hashCode() * 2 + (absolute ? 1 : 0);
    }

    @Override
    public String toString() {
        return (absolute ? "/" : "") + String.join("/", names);
    }
}
