-- What follows a diagnosis: claims within 30 days after a visit. Rows of fewer than 100 claims are left out, because the
-- answer leaves the enclave and must not point at a person.
SELECT diagnosis, count(*) AS claims, sum(paid_cents) // 100 AS paid_euros
FROM 'clf://hospital-a/visits.parquet' AS visits
JOIN 'clf://insurer/claims.parquet' AS claims USING (person)
WHERE claims.day BETWEEN visits.day AND visits.day + 30
GROUP BY diagnosis
HAVING count(*) >= 100
ORDER BY paid_euros DESC, diagnosis
