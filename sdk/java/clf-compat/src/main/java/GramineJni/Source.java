// SPDX-License-Identifier: Apache-2.0
package GramineJni;

import java.io.IOException;

/** Where files and keys come from: an owner, or the declared local folder. */
interface Source {
    byte[] key() throws IOException;

    long size(String name) throws IOException;

    /** At most `length` bytes, fewer only at the file's end. */
    byte[] read(String name, long offset, int length) throws IOException;

    void put(String name, byte[] data, int length) throws IOException;

    static Source of(String place, String ca) {
        return "local".equals(place) ? new LocalSource(System.getenv("CLF_LOCAL")) : OwnerSource.of(place, ca);
    }
}
