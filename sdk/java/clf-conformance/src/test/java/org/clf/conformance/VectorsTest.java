// SPDX-License-Identifier: Apache-2.0
package org.clf.conformance;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertTrue;

import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.List;
import java.util.Set;
import java.util.TreeSet;
import java.util.stream.Collectors;
import java.util.stream.Stream;
import org.junit.jupiter.api.DynamicTest;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.TestFactory;

/** Every vector of the specification that a client can check, outputs included. */
class VectorsTest {
    private static List<Path> vectors() throws IOException {
        Path folder = Path.of("..", "..", "..", "spec", "vectors");
        try (Stream<Path> files = Files.list(folder)) {
            return files.filter(file -> file.toString().endsWith(".json")).sorted().collect(Collectors.toList());
        }
    }

    @TestFactory
    Stream<DynamicTest> vectorsGiveWhatTheySay() throws IOException {
        return vectors().stream().map(file -> DynamicTest.dynamicTest(file.getFileName().toString(), () -> {
            Vectors.Outcome outcome = Vectors.run(file);
            if (outcome.skipped() == null) {
                assertEquals(outcome.expect(), outcome.result());
            }
        }));
    }

    /** Only what is for servers is left out, so that a typing mistake in a kind skips nothing silently. */
    @Test
    void nothingElseIsSkipped() throws IOException {
        Set<String> skipped = new TreeSet<>();
        for (Path file : vectors()) {
            if (Vectors.run(file).skipped() != null) {
                skipped.add(file.getFileName().toString().split("_")[0]);
            }
        }
        assertEquals(Set.of("glob", "challenge", "secret", "commit"), skipped);
        assertTrue(vectors().size() > 250);
    }
}
