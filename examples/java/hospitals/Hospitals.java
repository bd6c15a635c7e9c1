// SPDX-License-Identifier: Apache-2.0

import java.io.BufferedReader;
import java.io.IOException;
import java.net.URI;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Arrays;
import java.util.List;
import org.clf.Clf;
import org.clf.Owner;
import org.clf.Receipt;
import org.clf.Writer;

/** Two owners, one answer: how many patients both have, and the sum of their ages. Each owner gets the same report. */
public class Hospitals {
    private static final List<String> OWNERS = List.of("hospital-a", "hospital-b");

    private long patients;
    private long ageSum;

    public static void main(String[] args) throws IOException {
        Hospitals both = new Hospitals();
        for (String name : OWNERS) {
            both.add(name);
        }
        // What is written here leaves the enclave: sums, and nothing about a single patient.
        String report = "{\"patients\":" + both.patients + ",\"age_sum\":" + both.ageSum + "}\n";
        for (String name : OWNERS) {
            try (Owner owner = Clf.connect(name);
                    Writer out = owner.create("reports/java.json")) {
                out.write(report.getBytes(StandardCharsets.UTF_8));
                Receipt receipt = out.commit();
                System.out.println(name + ": " + receipt.path() + ", " + receipt.size() + " bytes, delivered");
            }
        }
    }

    /** One owner's patients, read as Java reads any file. */
    private void add(String name) throws IOException {
        Path file = Path.of(URI.create("clf://" + name + "/patients/2024.csv"));
        try (BufferedReader rows = Files.newBufferedReader(file)) {
            String header = rows.readLine();
            int age = header == null ? -1 : Arrays.asList(header.split(",")).indexOf("age");
            if (age < 0) {
                throw new IOException(name + ": no column age");
            }
            String row;
            while ((row = rows.readLine()) != null) {
                try {
                    ageSum += Integer.parseInt(row.split(",", -1)[age]);
                } catch (NumberFormatException | ArrayIndexOutOfBoundsException error) {
                    // Without the value: what fails in an enclave is shown outside of it.
                    throw new IOException(name + ": an age is no number");
                }
                patients++;
            }
        }
    }
}
