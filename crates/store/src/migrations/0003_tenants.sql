-- Whose each tenant id is (D36): the ChatTenant, namespace/name, that was served
-- under it first. A database that had tenants before has no row of theirs; the
-- first one served owns the id.

CREATE TABLE tenants (
    id {uuid} NOT NULL PRIMARY KEY,
    owner {str1024} NOT NULL,
    first_served {ts} NOT NULL,
    last_served {ts} NOT NULL
){strict};
